//! Another slot, another database, or none for a while.

use super::*;

impl Bench {
    fn pass_a_second(&mut self) {
        self.now += Duration::from_secs(1);
        self.conductor.handle_timeout(self.now);
        self.turn();
    }

    fn begin_epoch(&mut self, epoch: u64, failed_over: bool) {
        self.stream(StreamEvent::Interrupted);
        self.stream(StreamEvent::Started {
            epoch: Epoch(epoch),
            from: Lsn::new(5000),
            end: Lsn::new(5000),
            failed_over,
            messages: Some(5),
        });
    }
}

#[test]
fn another_database_is_told_as_such() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.begin_epoch(2, true);
    assert_eq!(
        bench.read(1),
        [format!("{:?}", Notice::Resync(ResyncReason::FailedOver))]
    );
}

#[test]
fn without_a_slot_who_is_subscribed_starts_over_and_who_joins_waits() {
    let mut bench = Bench::new();
    bench.join(1);
    bench.stream(StreamEvent::Interrupted);
    bench.stream(StreamEvent::GivenUp);
    assert_eq!(
        bench.read(1),
        [format!("{:?}", Notice::Resync(ResyncReason::SlotRecreated))]
    );
    bench.subscribe(2, claims("authenticated", "2"), false);
    if bench.wants_horizon {
        bench.see_all();
    }
    assert_eq!(bench.read(2), [""; 0]);
    bench.stream(StreamEvent::GivenUp);
    assert_eq!(bench.read(2), [""; 0], "it was promised nothing yet");
}

#[test]
fn what_an_epoch_gave_up_unseen_is_visible_before_anybody_joins() {
    for failed_over in [false, true] {
        let mut bench = Bench::new();
        bench.join(1);
        // Committed, and still waiting for a standby: no snapshot shows it, and the new epoch begins behind it.
        bench.commit(OPEN, insert(1, "given up"));
        bench.begin_epoch(2, failed_over);
        bench.read(1);
        // The query that was under way; it proves nothing about who joins later.
        bench.horizon(bench.next_xid - 1);
        bench.subscribe(2, claims("authenticated", "2"), false);
        bench.pass_a_second();
        bench.horizon(bench.next_xid - 1);
        // The transaction ids of another database are not those.
        let begun: &[&str] = if failed_over { &["subscribed"] } else { &[] };
        assert_eq!(bench.read(2), begun);
        if !failed_over {
            bench.pass_a_second();
            bench.see_all();
            assert_eq!(bench.read(2), ["subscribed"]);
        }
    }
}
