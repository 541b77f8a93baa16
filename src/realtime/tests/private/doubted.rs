//! What the database says in doubt of a permission.

use super::*;

/// Rows, as frames.
const ROW_1: &str = r#"\x04\n\x01\n\x01realtime:ae{\"id\":\"1\"}{}"#;
const ROW_2: &str = r#"\x04\n\x01\n\x01realtime:ae{\"id\":\"2\"}{}"#;

#[test]
fn what_was_said_after_a_doubt_waits_for_an_answer_and_all_behind_it() {
    joined("{}")
        .at(2)
        .hear_in_doubt(0, "1", &[ROW_1])
        .hear_in_doubt(1, "1", &["ask 1.2 as anon: reread"])
        .hear(json("e", "{}"), None, &[])
        .hear_in_doubt(1, "2", &[])
        .answer(2, read(true, false), &[ROW_1, FRAME, ROW_2])
        // The question was put after both.
        .hear_in_doubt(1, "1", &[ROW_1])
        .hear_in_doubt(2, "2", &[ROW_2]);
}

#[test]
fn who_is_denied_never_gets_what_was_said_after_the_doubt() {
    for answer in [read(false, false), Err(AskError::Policy("x".into()))] {
        joined("{}")
            .at(2)
            .hear_in_doubt(1, "1", &["ask 1.2 as anon: reread"])
            .hear(json("e", "{}"), None, &[])
            .answer(2, answer, &[LEAVE, &system(DENIED), CLOSE])
            .hear_in_doubt(1, "2", &[]);
    }
    // Without an answer nothing goes on either.
    joined("{}")
        .at(2)
        .hear_in_doubt(1, "1", &["ask 1.2 as anon: reread"])
        .answer(2, Err(AskError::Overloaded), &[])
        .at(3)
        .hear(json("e", "{}"), None, &["ask 1.3 as anon: reread"])
        .answer(3, read(true, false), &[ROW_1, FRAME]);
}

#[test]
fn an_answer_counts_for_what_was_doubted_before_its_question() {
    joined("{}")
        .at(2)
        .hear_in_doubt(1, "1", &["ask 1.2 as anon: reread"])
        .at(4)
        .hear_in_doubt(3, "2", &[])
        .answer(2, read(true, false), &[ROW_1, "ask 1.3 as anon: reread"])
        .answer(3, read(true, false), &[ROW_2]);
}

#[test]
fn doubts_that_follow_each_other_do_not_ask_each_time() {
    let mut conversation = joined("{}");
    conversation
        .at(2)
        .hear_in_doubt(2, "1", &["ask 1.2 as anon: reread"])
        .answer(2, read(true, false), &[ROW_1]);
    conversation.now.instant += Duration::from_millis(10);
    let doubt = conversation.now.instant;
    conversation
        .hear_since(Some(doubt), "1", &[])
        .hear_since(Some(doubt), "2", &[]);
    conversation.now.instant += Duration::from_millis(30);
    conversation.timeout(&[]);
    conversation.now.instant += Duration::from_millis(10);
    assert_eq!(
        conversation.socket.next_timeout(),
        Some(conversation.now.instant)
    );
    conversation.timeout(&["ask 1.3 as anon: reread"]).answer(
        3,
        read(true, false),
        &[ROW_1, ROW_2],
    );
}

#[test]
fn what_memory_cannot_answer_the_database_is_asked() {
    joined("{}")
        .at(2)
        .hear_in_doubt(1, "1", &["ask 1.2 as anon: reread"])
        .notice(
            1,
            Notice::Undecided { ticket: 2 },
            &["ask 1.3 as anon: read"],
        )
        // Of an earlier question.
        .notice(1, Notice::Undecided { ticket: 2 }, &[])
        .answer(2, read(true, false), &[])
        .answer(3, read(true, false), &[ROW_1]);
}

#[test]
fn a_telling_without_delay_asks_at_once() {
    joined("{}").at(2).notice(
        1,
        Notice::Recheck(Duration::ZERO),
        &["ask 1.2 as anon: reread"],
    );
}

#[test]
fn what_waits_in_doubt_is_bounded() {
    let mut conversation = joined("{}");
    conversation
        .at(2)
        .hear_in_doubt(1, "1", &["ask 1.2 as anon: reread"]);
    for _ in 1..1024 {
        conversation.hear_in_doubt(1, "1", &[]);
    }
    let error = r#"["1","1","realtime:a","phx_error",{}]"#;
    conversation.hear_in_doubt(
        1,
        "1",
        &[
            LEAVE,
            &system("Resync required: verdict could not be taken"),
            error,
        ],
    );
}

#[test]
fn a_join_that_was_permitted_before_the_doubt_asks_again() {
    let mut conversation = Conversation::in_rooms(Version::V2);
    conversation
        .text(&join(r#"{"replay":{}}"#, false), &["ask 1.1 as anon: read"])
        .at(2)
        .answer(
            1,
            read(true, false),
            &[ENTER_REPLAYING, "ask 1.2 as anon: replay 10 since 0"],
        )
        .hear_in_doubt(1, "1", &[]);
    let answer = Answer::Replayed {
        stored: Vec::new(),
        snapshot: None,
    };
    conversation
        .answer(2, Ok(answer), &[OK, "ask 1.3 as anon: reread"])
        .answer(3, read(true, false), &[ROW_1]);
}
