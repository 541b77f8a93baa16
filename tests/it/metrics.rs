//! What `/metrics` tells under the names that dashboards for this field know (protocol.md §8.3).

use serde_json::json;
use walcast::testing::{PUBLISHABLE_KEY, Socket, Version, eventually, user};

use crate::world::{ALICE, BOB, join_with, start, start_with, subscribe};

const POLICIES: &str = "
    create policy receive on realtime.messages for select to authenticated using (true);
    create policy send on realtime.messages for insert to authenticated with check (true);
";

/// The value of a series, with its labels as they are written.
fn figure(metrics: &str, name: &str) -> Option<f64> {
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(value.parse().unwrap())
}

#[tokio::test]
async fn figures_have_the_names_that_dashboards_know_and_rise() {
    let app = start_with(POLICIES).await;
    let before = app.server.get("/metrics").await.unwrap().body;
    let config =
        json!({"private": true, "broadcast": {"ack": true}, "presence": {"enabled": true}});
    let mut alice = join_with(&app, Version::V2, "room", config, Some(&user(ALICE))).await;
    let reference = alice.say("e", &json!({"text": "x".repeat(300)})).await;
    assert_eq!(alice.socket.reply(&reference).await.payload["status"], "ok");
    assert_eq!(alice.track(&json!({"n": 1})).await["status"], "ok");
    app.sql("select realtime.send('{\"from\": \"sql\"}', 'e', 'room')")
        .await;
    alice.heard().await;
    let bearer = format!("Bearer {}", user(ALICE));
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let path = "/api/broadcast/room/events/e?private=true";
    assert_eq!(app.server.post(path, &headers, b"{}").await.status, 202);
    let replaying = json!({"private": true, "broadcast": {"replay": {"since": 0}}});
    let mut bob = join_with(&app, Version::V2, "room", replaying, Some(&user(BOB))).await;
    bob.heard().await;

    let metrics = eventually("what the joins count", || async {
        let metrics = app.server.get("/metrics").await?.body;
        let joins = figure(&metrics, "realtime_channel_global_joins");
        (joins == Some(2.0)).then_some(metrics)
    })
    .await;
    for (name, value) in [
        ("realtime_connections_connected", 2.0),
        ("realtime_connections_connected_cluster", 2.0),
        ("realtime_connections_global_connected", 2.0),
        ("realtime_connections_global_connected_cluster", 2.0),
        ("realtime_tenants_connected", 1.0),
        ("realtime_channel_joins", 2.0),
        ("phoenix_socket_connected_duration_milliseconds_count", 2.0),
        ("realtime_tenants_replay_count", 1.0),
        (
            "realtime_tenants_broadcast_from_database_latency_committed_at_count",
            1.0,
        ),
        (
            "realtime_tenants_broadcast_from_database_latency_inserted_at_count",
            1.0,
        ),
        (
            "realtime_tenants_payload_size_count{message_type=\"broadcast\"}",
            3.0,
        ),
        (
            "realtime_tenants_payload_size_count{message_type=\"presence\"}",
            1.0,
        ),
        ("realtime_payload_size_count", 4.0),
        ("realtime_payload_size_bucket{le=\"250.0\"}", 3.0),
        ("realtime_payload_size_bucket{le=\"500.0\"}", 4.0),
        ("realtime_channel_global_error{code=\"Unauthorized\"}", 0.0),
    ] {
        assert_eq!(
            figure(&metrics, name).unwrap_or(0.0),
            value,
            "{name}:\n{metrics}"
        );
    }
    for (name, least) in [
        // The joins; permissions may have been looked at again.
        ("realtime_tenants_read_authorization_check_count", 2.0),
        // A broadcast, what is tracked, and the request.
        ("realtime_tenants_write_authorization_check_count", 3.0),
    ] {
        assert!(figure(&metrics, name) >= Some(least), "{name}:\n{metrics}");
    }
    for name in [
        "realtime_channel_events",
        "realtime_channel_global_events",
        "realtime_channel_presence_events",
        "realtime_channel_global_presence_events",
        "realtime_channel_input_bytes",
        "realtime_channel_global_input_bytes",
        "realtime_channel_output_bytes",
        "realtime_channel_global_output_bytes",
        "phoenix_channel_handled_in_duration_milliseconds_count",
        "phoenix_channel_handled_in_duration_milliseconds_sum",
        "realtime_tenants_read_authorization_check_sum",
        "realtime_tenants_write_authorization_check_sum",
        "realtime_tenants_replay_sum",
        "realtime_tenants_broadcast_from_database_latency_inserted_at_sum",
    ] {
        let of = |metrics| figure(metrics, name).unwrap_or_else(|| panic!("{name}:\n{metrics}"));
        assert!(of(&metrics) > of(&before), "{name}:\n{metrics}");
    }
    assert_eq!(figure(&metrics, "realtime_channel_db_events"), Some(0.0));
    assert_eq!(
        figure(&metrics, "realtime_channel_global_db_events"),
        Some(0.0)
    );
}

#[tokio::test]
async fn the_payload_of_a_change_counts_once_however_many_are_sent_it() {
    let app = start().await;
    let mut readers = Vec::new();
    for subject in [ALICE, BOB, BOB] {
        readers.push(subscribe(&app, subject, "notes").await);
    }
    let count = "realtime_tenants_payload_size_count{message_type=\"postgres_changes\"}";
    let metrics = async || app.server.get("/metrics").await.unwrap().body;
    let before = metrics().await;
    app.sql("insert into notes values (1, 'short', 1), (2, repeat('x', 6000), 2)")
        .await;
    for reader in &mut readers {
        assert_eq!(reader.changes(2).await.len(), 2);
    }
    let after = metrics().await;
    let risen =
        |name: &str| figure(&after, name).unwrap_or(0.0) - figure(&before, name).unwrap_or(0.0);
    assert_eq!(risen(count), 2.0, "{after}");
    let bucket = |bound: &str| {
        format!(
            "realtime_tenants_payload_size_bucket{{le=\"{bound}\",message_type=\"postgres_changes\"}}"
        )
    };
    assert_eq!(risen(&bucket("5000.0")), 1.0, "{after}");
    assert_eq!(risen(&bucket("10000.0")), 2.0);
    assert_eq!(risen(&bucket("+Inf")), 2.0);
    assert_eq!(risen("realtime_payload_size_count"), 2.0);
    assert!(risen("realtime_payload_size_sum") > 6000.0);
}

#[tokio::test]
async fn who_is_refused_is_forgotten_when_it_leaves() {
    let app = start().await;
    let name = "realtime_subscriptions_manager_subscribers";
    let mut socket = Socket::connect(app.server.port(), PUBLISHABLE_KEY, Version::V2).await;
    let binding = json!({"event": "*", "schema": "public", "table": "nosuch"});
    for wait in [false, true] {
        let join = json!({"config": {"postgres_changes": [binding], "postgres_changes_options": {"wait": wait}}});
        let topic = format!("realtime:{wait}");
        let reply = socket.ask(Some("1"), &topic, "phx_join", &join).await;
        assert_eq!(reply["status"], if wait { "error" } else { "ok" });
    }
    let subscribers = async || {
        let metrics = app.server.get("/metrics").await.unwrap().body;
        figure(&metrics, name)
    };
    // The one that is joined may yet bring a token that is served.
    eventually("the refused one is forgotten", || async {
        (subscribers().await == Some(1.0)).then_some(())
    })
    .await;
    socket
        .ask(Some("1"), "realtime:false", "phx_leave", &json!({}))
        .await;
    eventually("nobody is left", || async {
        (subscribers().await == Some(0.0)).then_some(())
    })
    .await;
}
