//! Presence: who is there, exactly, whatever happens to sockets (protocol.md §6).

use serde_json::{Value, json};
use walcast::testing::{App, Attendance, Channel, PUBLISHABLE_KEY, Socket, Version};

use crate::world::{join, join_with, start, start_with_environment};

const VERSIONS: [Version; 2] = [Version::V1, Version::V2];

/// A channel in `room` with a presence key of its own.
async fn join_as(app: &App, version: Version, key: &str) -> Channel {
    let config = json!({"presence": {"key": key, "enabled": true}});
    join_with(app, version, "room", config, None).await
}

async fn track(channel: &mut Channel, payload: Value) {
    let reply = channel.track(&payload).await;
    assert_eq!(reply, json!({"status": "ok", "response": {}}), "{payload}");
}

fn at(place: &str) -> Value {
    json!({"at": place})
}

#[tokio::test]
async fn the_first_is_told_that_nobody_is_there() {
    let app = start().await;
    let mut new = join_as(&app, Version::V2, "new").await;
    let state = new.next("presence_state").await;
    assert_eq!(
        state.raw,
        r#"["1",null,"realtime:room","presence_state",{}]"#
    );
    let mut old = join_as(&app, Version::V1, "old").await;
    let state = old.next("presence_state").await;
    assert_eq!(
        state.raw,
        r#"{"topic":"realtime:room","event":"presence_state","payload":{},"ref":null}"#
    );
}

#[tokio::test]
async fn three_clients_see_each_other_come_change_and_go() {
    let app = start().await;
    for versions in [
        [Version::V1, Version::V2, Version::V1],
        [Version::V2, Version::V1, Version::V2],
    ] {
        let mut ann = join_as(&app, versions[0], "ann").await;
        track(&mut ann, at("home")).await;
        // Also the one who tracks.
        ann.attended_by(&[("ann", &[at("home")])]).await;
        let mut ben = join_as(&app, versions[1], "ben").await;
        ben.attended_by(&[("ann", &[at("home")])]).await;
        track(&mut ben, at("work")).await;
        let mut cat = join_as(&app, versions[2], "cat").await;
        for channel in [&mut ann, &mut ben, &mut cat] {
            channel
                .attended_by(&[("ann", &[at("home")]), ("ben", &[at("work")])])
                .await;
        }
        track(&mut ann, at("work")).await;
        for channel in [&mut ann, &mut ben, &mut cat] {
            channel
                .attended_by(&[("ann", &[at("work")]), ("ben", &[at("work")])])
                .await;
        }
        assert_eq!(ann.untrack().await, json!({"status": "ok", "response": {}}));
        for channel in [&mut ann, &mut ben, &mut cat] {
            channel.attended_by(&[("ben", &[at("work")])]).await;
        }
        let socket = ben.leave().await;
        for channel in [&mut ann, &mut cat] {
            channel.attended_by(&[]).await;
        }
        drop(socket);
    }
}

#[tokio::test]
async fn frames_have_the_documented_shape() {
    for version in VERSIONS {
        // Of one version's members nothing is left when the next one's come.
        let app = start().await;
        let mut ann = join_as(&app, version, "ann").await;
        track(&mut ann, json!({"user": "ann", "phx_note": [1.50]})).await;
        let diff = ann.next("presence_diff").await;
        assert_eq!(
            (&diff.join_ref, &diff.reference),
            (&Value::Null, &Value::Null)
        );
        let first = diff.payload["joins"]["ann"]["metas"][0]["phx_ref"].clone();
        let first = first.as_str().unwrap();
        let meta = json!({"phx_ref": first, "user": "ann", "phx_note": [1.50]});
        assert_eq!(
            diff.payload,
            json!({"joins": {"ann": {"metas": [meta]}}, "leaves": {}})
        );

        let mut ben = join_as(&app, version, "ben").await;
        let state = ben.next("presence_state").await;
        assert_eq!(state.payload, json!({"ann": {"metas": [meta]}}));

        // One diff with both: two would flicker.
        track(&mut ann, json!({"user": "ann", "typing": true})).await;
        for channel in [&mut ann, &mut ben] {
            let diff = channel.next("presence_diff").await.payload;
            let second = &diff["joins"]["ann"]["metas"][0]["phx_ref"];
            assert_ne!(second, first);
            let changed =
                json!({"phx_ref": second, "phx_ref_prev": first, "user": "ann", "typing": true});
            let expected = json!({"joins": {"ann": {"metas": [changed]}}, "leaves": {"ann": {"metas": [meta]}}});
            assert_eq!(diff, expected);
        }
    }
}

#[tokio::test]
async fn two_tabs_with_one_key_count_until_each_is_gone() {
    let app = start().await;
    let mut watcher = join_as(&app, Version::V2, "watcher").await;
    let mut first = join_as(&app, Version::V2, "ann").await;
    let mut second = join_as(&app, Version::V1, "ann").await;
    track(&mut first, at("first")).await;
    track(&mut second, at("second")).await;
    watcher
        .attended_by(&[("ann", &[at("first"), at("second")])])
        .await;
    first
        .attended_by(&[("ann", &[at("first"), at("second")])])
        .await;
    // The same payload twice is two presences all the same.
    track(&mut second, at("first")).await;
    watcher
        .attended_by(&[("ann", &[at("first"), at("first")])])
        .await;
    drop(first);
    watcher.attended_by(&[("ann", &[at("first")])]).await;
    second.socket.close().await;
    watcher.attended_by(&[]).await;
}

#[tokio::test]
async fn however_a_socket_ends_its_presence_ends() {
    let app = start().await;
    let mut watcher = join_as(&app, Version::V2, "watcher").await;
    for version in VERSIONS {
        for end in ["untrack", "leave", "close", "drop", "join again"] {
            let mut ann = join_as(&app, version, "ann").await;
            track(&mut ann, at(end)).await;
            watcher.attended_by(&[("ann", &[at(end)])]).await;
            let mut kept = None;
            match end {
                "untrack" => {
                    ann.untrack().await;
                    kept = Some(ann.socket);
                }
                "leave" => kept = Some(ann.leave().await),
                "close" => ann.socket.close().await,
                "join again" => {
                    let payload = json!({"config": {"presence": {"key": "ann"}}});
                    let reply = ann
                        .socket
                        .ask(Some("again"), &ann.topic, "phx_join", &payload)
                        .await;
                    assert_eq!(reply["status"], "ok");
                    kept = Some(ann.socket);
                }
                // Without a close frame.
                _ => drop(ann),
            }
            watcher.attended_by(&[]).await;
            drop(kept);
        }
    }
}

#[tokio::test]
async fn who_rejoins_on_the_same_socket_is_present_once() {
    let app = start().await;
    let mut watcher = join_as(&app, Version::V2, "watcher").await;
    let config = json!({"presence": {"key": "ann", "enabled": true}});
    let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, Version::V2).await;
    for round in ["one", "two", "three"] {
        let mut ann = Channel::join_on(socket, Version::V2, "room", &config, None)
            .await
            .unwrap();
        ann.attended_by(&[]).await;
        track(&mut ann, at(round)).await;
        ann.attended_by(&[("ann", &[at(round)])]).await;
        watcher.attended_by(&[("ann", &[at(round)])]).await;
        socket = ann.leave().await;
        watcher.attended_by(&[]).await;
    }
}

#[tokio::test]
async fn what_changes_nothing_is_told_to_nobody() {
    let app = start().await;
    let mut watcher = join_as(&app, Version::V2, "watcher").await;
    let mut ann = join_as(&app, Version::V2, "ann").await;
    ann.untrack().await;
    track(&mut ann, at("home")).await;
    watcher.attended_by(&[("ann", &[at("home")])]).await;
    track(&mut ann, at("home")).await;
    // Its reply is all that comes of a message without an event.
    let reply = ann.request("presence", &json!({"type": "presence"})).await;
    assert_eq!(
        ann.socket.reply(&reply).await.payload,
        json!({"status": "ok", "response": {}})
    );
    track(&mut ann, at("work")).await;
    watcher.attended_by(&[("ann", &[at("work")])]).await;
    assert_eq!(watcher.attendance.diffs(), 2);
}

#[tokio::test]
async fn odd_messages_have_their_answers() {
    let app = start().await;
    for version in VERSIONS {
        let mut ann = join_as(&app, version, "ann").await;
        for (message, expected) in [
            (
                json!({"type": "presence", "event": "track", "payload": [1]}),
                json!({"status": "error", "response": {"reason": "Presence track payload must be a map"}}),
            ),
            (
                json!({"type": "presence", "event": "dance", "payload": {}}),
                json!({"status": "error", "response": {}}),
            ),
            (
                json!({"type": "presence", "event": "TrAcK"}),
                json!({"status": "ok", "response": {}}),
            ),
        ] {
            let reference = ann.request("presence", &message).await;
            assert_eq!(
                ann.socket.reply(&reference).await.payload,
                expected,
                "{message}"
            );
        }
        ann.attended_by(&[("ann", &[json!({})])]).await;
        // A reference to a membership that is gone, or none, is as good.
        for join_ref in [None, Some("stale")] {
            let message = json!({"type": "presence", "event": "UNTRACK"});
            let reply = ann
                .socket
                .ask(join_ref, "realtime:room", "presence", &message)
                .await;
            assert_eq!(reply, json!({"status": "ok", "response": {}}));
            ann.attended_by(&[]).await;
        }
    }
}

#[tokio::test]
async fn clients_that_do_not_say_whether_they_want_presence_get_it() {
    let app = start().await;
    let mut old = join(&app, Version::V1, "room").await;
    old.attended_by(&[]).await;
    let off = json!({"presence": {"enabled": false, "key": "new"}});
    let mut new = join_with(&app, Version::V2, "room", off, None).await;
    let told = new.socket.settle().await;
    assert!(told.is_empty(), "{told:#?}");
    // On public channels the changes come all the same; the state only with a track of its own.
    let mut ann = join_as(&app, Version::V2, "ann").await;
    track(&mut ann, at("home")).await;
    let diff = new.next("presence_diff").await;
    new.notice(&diff);
    assert!(!new.attendance.synced());
    track(&mut new, at("work")).await;
    let both: [(&str, &[Value]); 2] = [("ann", &[at("home")]), ("new", &[at("work")])];
    for channel in [&mut new, &mut old, &mut ann] {
        channel.attended_by(&both).await;
    }
}

#[tokio::test]
async fn whoever_gives_no_key_gets_one_per_join() {
    let app = start().await;
    let mut watcher = join_as(&app, Version::V2, "watcher").await;
    let mut keys = Vec::new();
    let mut channels = Vec::new();
    for config in [
        json!({}),
        json!({"presence": {"key": ""}}),
        json!({"presence": {"key": null}}),
    ] {
        let mut channel = join_with(&app, Version::V1, "room", config, None).await;
        track(&mut channel, at("home")).await;
        let diff = watcher.next("presence_diff").await.payload;
        let joins = diff["joins"].as_object().unwrap();
        keys.extend(joins.keys().cloned());
        channels.push(channel);
    }
    for key in &keys {
        let lengths: Vec<usize> = key.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{key}");
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 3);
}

#[tokio::test]
async fn too_many_presence_messages_end_the_channel() {
    let app = start().await;
    let mut watcher = join_as(&app, Version::V2, "watcher").await;
    for version in VERSIONS {
        let mut ann = join_as(&app, version, "ann").await;
        for n in 0..5 {
            track(&mut ann, json!({"n": n})).await;
        }
        watcher.attended_by(&[("ann", &[json!({"n": 4})])]).await;
        let again = json!({"type": "presence", "event": "track", "payload": {"n": 5}});
        ann.request("presence", &again).await;
        assert_eq!(ann.removed().await, "Client presence rate limit exceeded");
        watcher.attended_by(&[]).await;
        // The socket is fit for another try.
        let socket = ann.socket;
        let config = json!({"presence": {"key": "ann"}});
        let mut ann = Channel::join_on(socket, version, "room", &config, None)
            .await
            .unwrap();
        track(&mut ann, at("home")).await;
        watcher.attended_by(&[("ann", &[at("home")])]).await;
        ann.leave().await;
        watcher.attended_by(&[]).await;
    }
}

#[tokio::test]
async fn too_large_a_presence_ends_the_channel() {
    let app = start().await;
    let mut watcher = join_as(&app, Version::V2, "watcher").await;
    let mut ann = join_as(&app, Version::V2, "ann").await;
    track(&mut ann, at("home")).await;
    watcher.attended_by(&[("ann", &[at("home")])]).await;
    let large =
        json!({"type": "presence", "event": "track", "payload": {"text": "x".repeat(3_100_000)}});
    ann.request("presence", &large).await;
    assert_eq!(ann.removed().await, "Track message size exceeded");
    watcher.attended_by(&[]).await;
}

#[tokio::test]
async fn a_burst_reaches_everybody_in_few_diffs() {
    const CROWD: usize = 60;
    let app = start().await;
    let mut watchers = Vec::new();
    for version in VERSIONS {
        watchers.push(join_as(&app, version, "watcher").await);
    }
    let names: Vec<String> = (0..CROWD).map(|n| format!("guest {n}")).collect();
    let mut crowd = Vec::new();
    for name in &names {
        crowd.push(join_as(&app, Version::V2, name).await);
    }
    for (n, channel) in crowd.iter_mut().enumerate() {
        let message = json!({"type": "presence", "event": "track", "payload": {"n": n}});
        channel.request("presence", &message).await;
    }
    let metas: Vec<[Value; 1]> = (0..CROWD).map(|n| [json!({"n": n})]).collect();
    let everybody: Vec<(&str, &[Value])> = names
        .iter()
        .zip(&metas)
        .map(|(name, metas)| (name.as_str(), metas.as_slice()))
        .collect();
    for channel in watchers.iter_mut().chain(&mut crowd) {
        channel.attended_by(&everybody).await;
    }
    let late = join_as(&app, Version::V1, "late").await;
    for mut channel in [late] {
        channel.attended_by(&everybody).await;
    }
    drop(crowd);
    for watcher in &mut watchers {
        watcher.attended_by(&[]).await;
    }
}

#[tokio::test]
async fn a_room_forgets_everybody_when_the_server_restarts() {
    let mut app = start_with_environment("", &[]).await;
    let mut ann = join_as(&app, Version::V2, "ann").await;
    track(&mut ann, at("home")).await;
    ann.attended_by(&[("ann", &[at("home")])]).await;
    app.server.kill().await;
    app.server.spawn();
    app.server.ready().await;
    let mut ben = join_as(&app, Version::V2, "ben").await;
    ben.attended_by(&[]).await;
}

#[test]
fn a_view_refuses_what_no_server_may_say() {
    let meta = |reference: &str| json!({"ann": {"metas": [{"phx_ref": reference, "n": 1}]}});
    let refused = |diff: Value| {
        std::panic::catch_unwind(|| {
            let mut view = Attendance::default();
            view.state(&meta("A"));
            view.diff(&diff);
        })
        .is_err()
    };
    assert!(refused(json!({"joins": meta("A"), "leaves": {}})));
    assert!(refused(json!({"joins": {}, "leaves": meta("B")})));
    assert!(refused(json!({"joins": {}})));
    assert!(!refused(json!({"joins": meta("B"), "leaves": meta("A")})));
}
