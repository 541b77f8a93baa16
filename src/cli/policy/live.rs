//! Asks a running server what becomes of policies there (`GET /policy`).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::auth::{Grant, mint};
use crate::clock;

/// The server's answer, whole.
const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// How long the token is good for.
const TOKEN_SECONDS: i64 = 60;

/// The server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum LiveError {
    #[error("no walcast answers at {address}; name another address with --live ADDRESS:PORT")]
    Silent {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the walcast at {0} takes too long to answer")]
    Slow(SocketAddr),
    #[error("the walcast at {0} wants another metrics secret; set WALCAST_METRICS_SECRET")]
    Forbidden(SocketAddr),
    #[error("what answers at {0} is no walcast that can tell")]
    Strange(SocketAddr),
}

/// What becomes of policies in the server at this address.
pub(super) async fn ask(address: SocketAddr, secret: Option<&str>) -> Result<Value, LiveError> {
    let silent = |source| LiveError::Silent { address, source };
    let reply = tokio::time::timeout(TIMEOUT, request(address, secret))
        .await
        .map_err(|_elapsed| LiveError::Slow(address))?
        .map_err(silent)?;
    let strange = || LiveError::Strange(address);
    let (head, body) = reply.split_once("\r\n\r\n").ok_or_else(strange)?;
    match head.split(' ').nth(1) {
        Some("200") => serde_json::from_str(body).map_err(|_no_json| strange()),
        Some("403") => Err(LiveError::Forbidden(address)),
        _ => Err(strange()),
    }
}

async fn request(address: SocketAddr, secret: Option<&str>) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    // The answer ends with the connection and comes in one piece.
    let mut request = format!("GET /policy HTTP/1.0\r\nhost: {address}\r\n");
    let grant = Grant {
        role: "metrics",
        expires_at: clock::unix_seconds().saturating_add(TOKEN_SECONDS),
        ..Grant::default()
    };
    if let Some(Ok(token)) = secret.map(|secret| mint(secret, &grant)) {
        let _infallible = write!(request, "authorization: Bearer {token}\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut reply = String::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_string(&mut reply)
        .await?;
    Ok(reply)
}

/// The answer for people.
pub(super) fn print(state: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let list = |name: &str| state[name].as_array().cloned().unwrap_or_default();
    let mut out = String::from("running server\n");
    let mut line = |text: String| {
        let _infallible = writeln!(out, "  {text}");
    };
    if state["compiles"] != true {
        line("Postgres is asked for every verdict (verdicts = postgres)".to_owned());
    } else if state["knows_schema"] != true {
        line("the schema is being read; Postgres is asked meanwhile".to_owned());
    }
    line(format!(
        "memory  {} of {} bytes (shadow_bytes_max)",
        state["shadow_bytes"], state["shadow_bytes_max"]
    ));
    for plan in list("plans") {
        let outcome = match plan["reason"].as_str() {
            Some(reason) => format!("Postgres is asked: {reason}"),
            None => "compiled".to_owned(),
        };
        line(format!(
            "plan    {} for {}: {outcome}",
            text(&plan["table"]),
            text(&plan["role"])
        ));
    }
    for shadow in list("shadows") {
        let why = match shadow["reason"].as_str() {
            Some(reason) => format!(": {reason}"),
            None => format!(", {} rows, {} bytes", shadow["rows"], shadow["bytes"]),
        };
        let again = match shadow["loaded_again_because"].as_str() {
            Some(reason) => format!(
                "; loaded {} times, lastly because {reason}",
                shadow["loads"]
            ),
            None => String::new(),
        };
        line(format!(
            "table   {} {}{why}{again}",
            text(&shadow["table"]),
            text(&shadow["state"])
        ));
    }
    for work in list("verdicts") {
        for source in ["compiled", "postgres"] {
            let of = &work[source];
            let count = |name: &str| of[name].as_u64().unwrap_or(0);
            let all = count("allowed") + count("denied") + count("raised") + count("undecided");
            if let Some(each) = count("micros").checked_div(all) {
                line(format!(
                    "verdict {} {source}: {} allowed, {} denied, {} raised, {} undecided; {each} µs each",
                    text(&work["table"]),
                    of["allowed"],
                    of["denied"],
                    of["raised"],
                    of["undecided"],
                ));
            }
        }
    }
    out.trim_end().to_owned()
}
