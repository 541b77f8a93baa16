//! Permissions are looked at again, and lost.

use super::*;

#[test]
fn a_new_token_is_asked_about_and_its_loss_told() {
    let user = token("authenticated", 600);
    let ask = "ask 1.2 as authenticated: read with presence";
    let begin = |broadcast: bool, presence: bool| {
        let mut conversation = Conversation::begin(Version::V2);
        conversation
            .text(&join("{}", true), &["ask 1.1 as anon: read with presence"])
            .answer(1, read(broadcast, presence), &[OK]);
        conversation.rooms = true;
        conversation.text(&refresh(&user), &[ask]);
        conversation
    };
    begin(true, true).answer(2, read(true, true), &[]);
    begin(true, false).answer(
        2,
        read(true, true),
        &[
            "private room of 1: enter for broadcasts presence",
            "private room of 1: state",
        ],
    );
    begin(false, true).answer(
        2,
        read(true, true),
        &["private room of 1: enter for broadcasts presence"],
    );
    for partly in [read(false, true), read(true, false)] {
        begin(true, true).answer(2, partly, &[LEAVE, &system(NO_LONGER), CLOSE]);
    }
    let check = |answer, text: &str| {
        begin(true, true).answer(2, answer, &[LEAVE, &system(text), CLOSE]);
    };
    check(read(false, false), DENIED);
    check(Err(AskError::Policy("x".into())), DENIED);
    check(
        Err(AskError::Cancelled),
        "Query was cancelled, please try again",
    );
    check(
        Err(AskError::Unreachable),
        "Realtime was unable to connect to the project database",
    );
}

#[test]
fn who_lost_the_permission_is_told_when_policies_change() {
    joined("{}")
        .recheck(0, &["ask 1.2 as anon: reread"])
        // Once is enough while a question is open, but its answer may be too old.
        .recheck(1, &[])
        .recheck(2, &[])
        .answer(2, read(true, false), &["ask 1.3 as anon: reread"])
        .hear(json("e", "{}"), None, &[FRAME])
        .answer(3, read(false, false), &[LEAVE, &system(DENIED), CLOSE])
        .hear(json("e", "{}"), None, &[]);
    joined("{}")
        .recheck(0, &["ask 1.2 as anon: reread"])
        .answer(2, Err(AskError::Unreachable), &[])
        .hear(json("e", "{}"), None, &[FRAME])
        .recheck(1, &["ask 1.3 as anon: reread"])
        .answer(
            3,
            Err(AskError::Policy("x".into())),
            &[LEAVE, &system(DENIED), CLOSE],
        );
    // A public channel has nothing to ask.
    Conversation::begin(Version::V2)
        .text(r#"["1","1","realtime:a","phx_join",{}]"#, &[OK])
        .recheck(0, &[]);
}

#[test]
fn channels_ask_within_a_second_and_not_all_at_once() {
    let mut conversation = Conversation::begin(Version::V2);
    for number in 1..=100 {
        let rename = |text: &str| {
            let refs = format!(r#"["{number}","{number}","realtime:{number}""#);
            text.replace(r#"["1","1","realtime:a""#, &refs)
        };
        let answer = read(true, false);
        conversation
            .text(
                &rename(&join("{}", false)),
                &[&format!("ask {number}.1 as anon: read")],
            )
            .notice(
                number,
                Notice::Answered { ticket: 1, answer },
                &[&rename(OK)],
            )
            .notice(number, Notice::Recheck(Duration::from_secs(1)), &[]);
    }
    let mut moments = Vec::new();
    let mut asked = 0;
    while asked < 100 {
        conversation.now.instant = conversation.socket.next_timeout().unwrap();
        conversation.socket.handle_timeout(conversation.now);
        asked += conversation.outputs().len();
        moments.push(conversation.now.instant - conversation.begin);
    }
    assert_eq!(asked, 100);
    assert!(moments.len() > 80, "{moments:?}");
    assert!(moments.first() < Some(&Duration::from_millis(100)));
    assert!(moments.last() > Some(&Duration::from_millis(900)));
    assert!(moments.last() < Some(&Duration::from_secs(1)));
}

#[test]
fn the_permission_to_send_is_asked_again_as_well() {
    let push = r#"["1","3","realtime:a","broadcast",{}]"#;
    let say = r#"private room of 1: say [null,null,"realtime:a","broadcast",{}]"#;
    joined("{}")
        .text(push, &["ask 1.2 as anon: write broadcast"])
        .answer(2, Ok(Answer::Write(true)), &[say])
        .recheck(
            0,
            &[
                "ask 1.3 as anon: reread",
                "ask 1.4 as anon: write broadcast",
            ],
        )
        // What is said meanwhile waits for the answer.
        .text(push, &[])
        .answer(4, Ok(Answer::Write(false)), &[])
        .text(push, &[])
        .answer(3, read(true, false), &[])
        // Who was denied asks when it sends.
        .recheck(1, &["ask 1.5 as anon: reread"])
        .text(push, &["ask 1.6 as anon: write broadcast"]);
}

#[test]
fn permissions_are_looked_at_again_by_and_by() {
    let mut conversation = joined("{}");
    let mut last = 0;
    let mut ticket = 2;
    for second in 1..3000 {
        conversation.at(second).check(Input::Control, &[]);
        conversation.socket.handle_timeout(conversation.now);
        let outputs = conversation.outputs();
        if outputs.is_empty() {
            continue;
        }
        assert_eq!(outputs, [format!("ask 1.{ticket} as anon: reread")]);
        assert!((45..=61).contains(&(second - last)), "{last} to {second}");
        conversation.answer(ticket, read(true, false), &[]);
        last = second;
        ticket += 1;
    }
    assert!(last > 2900);
}

#[test]
fn a_recheck_that_fails_is_repeated_soon() {
    joined("{}")
        .recheck(0, &["ask 1.2 as anon: reread"])
        .answer(2, Err(AskError::Overloaded), &[])
        .at(4)
        .timeout(&[])
        .at(6)
        .timeout(&["ask 1.3 as anon: reread"])
        .answer(3, read(true, false), &[])
        .at(40)
        .timeout(&[]);
}

#[test]
fn an_unanswered_recheck_is_put_again_after_a_while() {
    let mut conversation = joined("{}");
    conversation
        .recheck(0, &["ask 1.2 as anon: reread"])
        .at(50)
        .check(Input::Control, &[])
        .recheck(59, &[])
        .recheck(61, &["ask 1.3 as anon: reread"])
        .answer(2, read(false, false), &[])
        .answer(3, read(true, false), &[])
        .check(Input::Control, &[])
        .hear(json("e", "{}"), None, &[FRAME]);
}

#[test]
fn an_answer_about_sending_that_is_older_than_a_doubt_is_asked_for_again() {
    let push = r#"["1","3","realtime:a","broadcast",{}]"#;
    let say = r#"private room of 1: say [null,null,"realtime:a","broadcast",{}]"#;
    let ask = |ticket: u32| format!("ask 1.{ticket} as anon: write broadcast");
    let mut conversation = joined("{}");
    conversation
        .text(push, &[&ask(2)])
        .recheck(0, &["ask 1.3 as anon: reread"])
        .answer(2, Ok(Answer::Write(true)), &[say, &ask(4)])
        .answer(3, read(true, false), &[])
        .text(push, &[])
        .recheck(1, &["ask 1.5 as anon: reread"])
        .answer(5, read(true, false), &[])
        .answer(4, Ok(Answer::Write(false)), &[])
        .text(push, &[&ask(6)])
        .answer(6, Ok(Answer::Write(true)), &[say])
        // And without an answer it is asked again soon.
        .recheck(10, &["ask 1.7 as anon: reread", &ask(8)])
        .answer(7, read(true, false), &[])
        .answer(8, Err(AskError::Cancelled), &[])
        .at(17)
        .timeout(&["ask 1.9 as anon: reread", &ask(10)])
        .answer(9, read(true, false), &[])
        .answer(10, Err(AskError::Cancelled), &[])
        .text(push, &[&ask(11)])
        .answer(11, Ok(Answer::Write(true)), &[say])
        .text(push, &[say]);
}

#[test]
fn what_is_sent_after_a_doubt_about_sending_waits_for_its_answer_and_nobody_else_asks() {
    let push = |reference: &str| kind_3(reference, "e", "", true, reference.as_bytes());
    let say =
        |number: &str| format!(r"private room of 1: say \x04\n\x01\x00\x01realtime:ae{number}");
    let ok = |number: &str| reply(number, "ok", "{}");
    let denied = |number: &str| reply(number, "error", r#"{"error":"unauthorized"}"#);
    let ask = |ticket: u32| format!("ask 1.{ticket} as anon: write broadcast");
    let mut conversation = joined(r#"{"ack":true}"#);
    conversation
        .check(Input::DoubtSending, &[])
        .check(Input::Binary(&push("3")), &[&ask(2)])
        .answer(2, Ok(Answer::Write(true)), &[&say("3"), &ok("3")])
        .check(Input::Binary(&push("4")), &[&say("4"), &ok("4")])
        // Only who sends asks.
        .check(Input::DoubtSending, &[])
        .check(Input::DoubtSending, &[])
        .check(Input::Binary(&push("5")), &[&ask(3)])
        .check(Input::DoubtSending, &[])
        .check(Input::Binary(&push("6")), &[])
        // The answer is as old as its question: it settles what was sent before the doubt.
        .answer(3, Ok(Answer::Write(true)), &[&say("5"), &ok("5"), &ask(4)])
        .check(Input::DoubtSending, &[])
        .check(Input::Binary(&push("7")), &[])
        .answer(4, Ok(Answer::Write(false)), &[&denied("6"), &ask(5)])
        .answer(5, Ok(Answer::Write(false)), &[&denied("7")])
        .check(Input::Binary(&push("8")), &[&denied("8")])
        // Who was denied may be allowed now.
        .check(Input::DoubtSending, &[])
        .check(Input::Binary(&push("9")), &[&ask(6)])
        .answer(
            6,
            Err(AskError::Unreachable),
            &[&reply(
                "9",
                "error",
                r#"{"error":"unable_to_connect_to_project"}"#,
            )],
        )
        .check(Input::Binary(&push("9")), &[&ask(7)])
        .answer(7, Ok(Answer::Write(true)), &[&say("9"), &ok("9")]);
}

#[test]
fn who_enters_says_when_its_permission_was_asked_for() {
    for replay in ["{}", r#"{"replay":{}}"#] {
        let mut conversation = Conversation::in_rooms(Version::V2);
        conversation
            .text(&join(replay, false), &["ask 1.1 as anon: read"])
            .at(2);
        let answer = Notice::Answered {
            ticket: 1,
            answer: read(true, false),
        };
        let input = Input::Notice {
            membership: 1,
            notice: answer,
        };
        conversation.socket.handle(conversation.now, input);
        let mut asked = Vec::new();
        while let Some(output) = conversation.socket.poll_output() {
            if let Output::Room {
                request: RoomRequest::Enter(entry) | RoomRequest::EnterReplaying(entry),
                ..
            } = output
            {
                asked.push(entry.asked);
            }
        }
        // The answer may be as old as the question.
        assert_eq!(asked, [Some(conversation.begin)]);
    }
}
