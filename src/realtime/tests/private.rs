//! Private channels: permissions, replay, storage (protocol.md §5.3, §5.6, §5.7, §7.4, §7.5).

mod doubted;
mod rechecked;
mod replayed;
mod sent;

use super::*;
use crate::realtime::Stored;

const OK: &str =
    r#"["1","1","realtime:a","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#;
const ENTER: &str = "private room of 1: enter for broadcasts";
const ENTER_REPLAYING: &str = "private room of 1: enter to replay";
const LEAVE: &str = "private room of 1: leave";
const CLOSE: &str = r#"["1","1","realtime:a","phx_close",{}]"#;
const FRAME: &str = r"\x04\n\x01\x00\x01realtime:ae{}";

fn join(broadcast: &str, presence: bool) -> String {
    format!(
        r#"["1","1","realtime:a","phx_join",{{"config":{{"private":true,"broadcast":{broadcast},"presence":{{"key":"ann","enabled":{presence}}}}}}}]"#
    )
}

#[expect(clippy::unnecessary_wraps, reason = "as questions are answered")]
fn read(broadcast: bool, presence: bool) -> Result<Answer, AskError> {
    Ok(Answer::Read {
        broadcast,
        presence,
    })
}

fn refused(reason: &str) -> String {
    format!(
        r#"["1","1","realtime:a","phx_reply",{{"status":"error","response":{{"reason":"{reason}"}}}}]"#
    )
}

fn system(message: &str) -> String {
    format!(
        r#"["1",null,"realtime:a","system",{{"extension":"system","status":"error","message":"{message}","channel":"a"}}]"#
    )
}

fn reply(reference: &str, status: &str, response: &str) -> String {
    format!(
        r#"["1","{reference}","realtime:a","phx_reply",{{"status":"{status}","response":{response}}}]"#
    )
}

fn refresh(token: &str) -> String {
    format!(r#"["1","3","realtime:a","access_token",{{"access_token":"{token}"}}]"#)
}

/// A private channel that may read broadcasts and has no presence.
fn joined(broadcast: &str) -> Conversation {
    let mut conversation = Conversation::in_rooms(Version::V2);
    conversation
        .text(&join(broadcast, false), &["ask 1.1 as anon: read"])
        .answer(1, read(true, false), &[OK, ENTER]);
    conversation
}

const DENIED: &str = "You do not have permissions to read from this Channel topic: a";
const NO_LONGER: &str = "You no longer have permission to read from this Channel topic: a";

#[test]
fn a_join_waits_for_its_permission_and_nothing_else_does() {
    let mut conversation = Conversation::in_rooms(Version::V2);
    conversation
        .text(&join("{}", true), &["ask 1.1 as anon: read with presence"])
        .text(
            r#"[null,"5","phoenix","heartbeat",{}]"#,
            &[r#"[null,"5","phoenix","phx_reply",{"status":"ok","response":{}}]"#],
        )
        .text(
            r#"["8","8","realtime:b","phx_join",{"config":{"presence":{"enabled":false}}}]"#,
            &[
                r#"["8","8","realtime:b","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#,
                "room of 2: enter for broadcasts presence",
            ],
        )
        .text(r#"["1","3","realtime:a","broadcast",{}]"#, &[])
        .answer(
            1,
            read(true, true),
            &[
                OK,
                "private room of 1: enter for broadcasts presence",
                "private room of 1: state",
                "ask 1.2 as anon: write broadcast",
            ],
        )
        .answer(1, read(false, false), &[]);
}

#[test]
fn either_permission_admits_and_each_gives_its_own() {
    Conversation::in_rooms(Version::V2)
        .text(&join("{}", true), &["ask 1.1 as anon: read with presence"])
        .answer(
            1,
            read(false, true),
            &[
                OK,
                "private room of 1: enter for presence",
                "private room of 1: state",
            ],
        )
        .hear(json("e", "{}"), None, &[]);
    Conversation::in_rooms(Version::V2)
        .text(&join("{}", true), &["ask 1.1 as anon: read with presence"])
        .answer(1, read(true, false), &[OK, ENTER])
        .hear(json("e", "{}"), None, &[FRAME]);
}

#[test]
fn a_join_is_refused_with_the_reason() {
    let check = |answer: Result<Answer, AskError>, reason: &str| {
        Conversation::in_rooms(Version::V2)
            .text(&join("{}", false), &["ask 1.1 as anon: read"])
            .answer(1, answer, &[&refused(reason)])
            .text(
                r#"["1","2","realtime:a","broadcast",{}]"#,
                &[r#"[null,"2","realtime:a","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#],
            );
    };
    let denied = format!("Unauthorized: {DENIED}");
    check(read(false, false), &denied);
    check(Err(AskError::Policy("division by zero".into())), &denied);
    check(
        Err(AskError::Cancelled),
        "QueryCanceled: Query was cancelled, please try again",
    );
    check(
        Err(AskError::MissingPartition),
        "MissingPartition: Realtime was unable to find the expected messages partition",
    );
    check(
        Err(AskError::Unreachable),
        "UnableToConnectToProject: Realtime was unable to connect to the project database",
    );
    check(
        Err(AskError::TooManyConnections),
        "DatabaseLackOfConnections: Database can't accept more connections, Realtime won't connect",
    );
    check(
        Err(AskError::Overloaded),
        "IncreaseConnectionPool: Please increase your connection pool size",
    );
    check(
        Err(AskError::NotInstalled),
        "RealtimeDisabledForConfiguration: private channels need the table realtime.messages; run walcast setup",
    );
    Conversation::in_rooms(Version::V2)
        .text(&join("{}", false), &["ask 1.1 as anon: read"])
        .at(8)
        .timeout(&[&refused(
            "InitializingProjectConnection: Realtime is initializing the project connection",
        )])
        .answer(1, read(true, true), &[]);
}

#[test]
fn bindings_are_asked_for_after_the_permission() {
    let join = join_with("1", r#","private":true,"presence":{"enabled":false}"#, None);
    let mut conversation = Conversation::in_rooms(Version::V2);
    conversation
        .text(&join, &["ask 1.1 as anon: read"])
        .answer(1, read(true, false), &[SUBSCRIBE])
        .notice(1, Notice::Subscribed, &[super::OK, ENTER, SUBSCRIBED]);
    conversation.changes(
        1,
        &["{}"],
        &[r#"[null,null,"realtime:a","postgres_changes",{"ids":[7],"last":true,"data":{}}]"#],
    );
    Conversation::in_rooms(Version::V2)
        .text(&join, &["ask 1.1 as anon: read"])
        .answer(
            1,
            read(false, false),
            &[&refused(&format!("Unauthorized: {DENIED}"))],
        );
    // A new token while the first question is open: only the answer for the new one counts.
    let user = token("authenticated", 600);
    Conversation::in_rooms(Version::V2)
        .text(&join, &["ask 1.1 as anon: read"])
        .text(&refresh(&user), &["ask 1.2 as authenticated: read"])
        .answer(1, read(false, false), &[])
        .answer(
            2,
            read(true, false),
            &[&SUBSCRIBE.replace("anon", "authenticated")],
        );
}
