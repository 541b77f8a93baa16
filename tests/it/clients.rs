//! Stock supabase-js, an old release and the newest, in Node and in a browser (`tests/clients/`): each scenario against a
//! server of its own, once with each release.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use walcast::testing::{App, AppOptions, JWT_SECRET, PUBLISHABLE_KEY};

const SCHEMA: &str = "
    insert into conversations (id, type, participant_ids) values
      ('c0000000-0000-4000-8000-00000000000a', 'direct', '{a0000000-0000-4000-8000-000000000001}'),
      ('c0000000-0000-4000-8000-00000000000b', 'direct', '{b0000000-0000-4000-8000-000000000002}');
    create table notes (id int primary key, body text, rank int);
    create table kinds (id bigint primary key, amount numeric, yes boolean, doc jsonb, tags text[], at timestamp, nothing text);
    grant select on notes, kinds to anon, authenticated;
    alter publication supabase_realtime add table notes, kinds;
";

/// Longer than any single wait inside a scenario, so that the scenario says what it waited for.
const SCENARIO_MAX: Duration = Duration::from_secs(90);

async fn check(release: &str, scenario: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    for package in ["ws", "playwright-core"] {
        assert!(
            folder.join("node_modules").join(package).exists(),
            "{package} is not installed; run: scripts/install clients"
        );
    }
    let state = tempfile::tempdir().unwrap();
    let options = AppOptions {
        schema: SCHEMA,
        environment: &[("WALCAST_STATE_DIR", state.path().to_str().unwrap())],
        private: None,
    };
    let mut app = App::start_with(env!("CARGO_BIN_EXE_walcast"), &options).await;
    let mut node = Command::new("node")
        .args(["--no-deprecation", "run.mjs", release, scenario])
        .current_dir(folder)
        .env(
            "WALCAST_URL",
            format!("http://127.0.0.1:{}", app.server.port()),
        )
        .env("WALCAST_JWT_SECRET", JWT_SECRET)
        .env("WALCAST_PUBLISHABLE_KEY", PUBLISHABLE_KEY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node is installed; else run: apt-get install nodejs npm");
    let mut answers = node.stdin.take().unwrap();
    let mut requests = BufReader::new(node.stdout.take().unwrap()).lines();
    let mut complaints = node.stderr.take().unwrap();
    let complaints = tokio::spawn(async move {
        let mut text = String::new();
        complaints
            .read_to_string(&mut text)
            .await
            .map(|_length| text)
    });
    let serve = async {
        while let Some(line) = requests.next_line().await.unwrap() {
            // Old releases log to stdout as well.
            let Ok(request) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            if let Some(sql) = request["sql"].as_str() {
                app.sql(sql).await;
            } else if request["server"] == "kill" {
                app.server.kill().await;
            } else if request["server"] == "start" {
                app.server.spawn();
                app.server.ready().await;
            }
            answers.write_all(b"done\n").await.unwrap();
        }
    };
    let in_time = tokio::time::timeout(SCENARIO_MAX, serve).await.is_ok();
    if !in_time {
        node.start_kill().unwrap();
    }
    let status = node.wait().await.unwrap();
    let complaints = complaints.await.unwrap().unwrap();
    assert!(
        in_time && status.success(),
        "{scenario} with the {release} release: {complaints}"
    );
}

macro_rules! scenarios {
    (both { $($test:ident = $scenario:literal,)* } new { $($new_test:ident = $new_scenario:literal,)* }) => {
        mod old_release {
            $(#[tokio::test] async fn $test() { super::check("old", $scenario).await; })*
        }
        mod new_release {
            $(#[tokio::test] async fn $test() { super::check("new", $scenario).await; })*
            $(#[tokio::test] async fn $new_test() { super::check("new", $new_scenario).await; })*
        }
        /// Every scenario of the files is in the list above.
        #[test]
        fn no_scenario_is_forgotten() {
            let mut listed = vec![$($scenario),* $(, $new_scenario)*];
            let files = FILES.map(|file| {
                std::fs::read_to_string(format!("{}/tests/clients/{file}.mjs", env!("CARGO_MANIFEST_DIR"))).unwrap()
            });
            let mut written: Vec<&str> = files
                .iter()
                .flat_map(|file| file.lines())
                .filter_map(|line| line.strip_prefix("export async function ")?.split(' ').next())
                .collect();
            listed.sort_unstable();
            written.sort_unstable();
            assert_eq!(written, listed);
        }
    };
}

const FILES: [&str; 5] = [
    "scenarios",
    "scenarios-broadcast",
    "scenarios-browser",
    "scenarios-presence",
    "scenarios-private",
];

scenarios! {
    both {
        inserts_updates_and_deletes_arrive = "insertsUpdatesAndDeletesArrive",
        only_the_wanted_events_arrive = "onlyTheWantedEventsArrive",
        a_snapshot_comes_first = "aSnapshotComesFirst",
        filters_hold = "filtersHold",
        select_limits_columns = "selectLimitsColumns",
        wildcards_match = "wildcardsMatch",
        each_user_sees_their_own = "eachUserSeesTheirOwn",
        two_channels_share_a_socket = "twoChannelsShareASocket",
        anon_sees_only_what_is_public = "anonSeesOnlyWhatIsPublic",
        wrong_tokens_are_refused = "wrongTokensAreRefused",
        an_expired_token_ends_the_channel = "anExpiredTokenEndsTheChannel",
        a_refreshed_token_keeps_the_channel = "aRefreshedTokenKeepsTheChannel",
        a_new_token_changes_what_is_seen = "aNewTokenChangesWhatIsSeen",
        a_token_from_a_callback_counts_from_the_start = "aTokenFromACallbackCountsFromTheStart",
        channels_come_back_after_a_restart = "channelsComeBackAfterARestart",
        a_channel_with_a_resume_id_misses_nothing = "aChannelWithAResumeIdMissesNothing",
        a_channel_can_leave_and_join_again = "aChannelCanLeaveAndJoinAgain",
        broadcast_and_presence_may_be_asked_for = "broadcastAndPresenceMayBeAskedFor",
        bad_filters_are_told = "badFiltersAreTold",
        values_keep_their_types = "valuesKeepTheirTypes",
        many_changes_arrive_in_order = "manyChangesArriveInOrder",
        broadcasts_reach_everybody_else = "broadcastsReachEverybodyElse",
        listeners_get_their_events = "listenersGetTheirEvents",
        a_sender_may_hear_itself_and_wait_for_the_answer = "aSenderMayHearItselfAndWaitForTheAnswer",
        a_broadcast_before_subscribing_goes_over_http = "aBroadcastBeforeSubscribingGoesOverHttp",
        broadcasts_keep_their_order = "broadcastsKeepTheirOrder",
        old_and_new_releases_understand_each_other = "oldAndNewReleasesUnderstandEachOther",
        the_database_broadcasts = "theDatabaseBroadcasts",
        channels_hear_again_after_a_restart = "channelsHearAgainAfterARestart",
        a_page_that_loses_its_connection_misses_nothing = "aPageThatLosesItsConnectionMissesNothing",
        what_the_database_said_meanwhile_is_heard = "whatTheDatabaseSaidMeanwhileIsHeard",
        who_left_and_came_back_hears_once = "whoLeftAndCameBackHearsOnce",
        three_clients_see_each_other = "threeClientsSeeEachOther",
        two_tabs_of_one_person_are_two_presences = "twoTabsOfOnePersonAreTwoPresences",
        what_is_tracked_may_change = "whatIsTrackedMayChange",
        presence_comes_back_after_a_restart = "presenceComesBackAfterARestart",
        too_many_presence_messages_end_the_channel = "tooManyPresenceMessagesEndTheChannel",
    }
    new {
        a_mixed_crowd_ends_up_with_one_view = "aMixedCrowdEndsUpWithOneView",
        http_send_says_how_it_went = "httpSendSaysHowItWent",
        bytes_arrive_as_bytes = "bytesArriveAsBytes",
        private_channels_are_for_participants = "privateChannelsAreForParticipants",
        who_may_only_listen_is_told = "whoMayOnlyListenIsTold",
        a_channel_follows_its_token = "aChannelFollowsItsToken",
        a_dropped_policy_ends_the_channel = "aDroppedPolicyEndsTheChannel",
        private_presence_works = "privatePresenceWorks",
        triggers_broadcast_changes = "triggersBroadcastChanges",
        a_private_channel_goes_on_where_it_was = "aPrivateChannelGoesOnWhereItWas",
        recent_broadcasts_are_replayed = "recentBroadcastsAreReplayed",
        stored_broadcasts_are_replayed = "storedBroadcastsAreReplayed",
    }
}
