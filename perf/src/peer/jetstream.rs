//! Makes the stream that takes every message (`m.>`), by the JetStream API over one plain connection.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(200);
const STREAM: &str = r#"{"name":"IRISPERF","subjects":["m.>"],"storage":"file","retention":"limits","num_replicas":1}"#;

/// Creates it; JetStream may be up a moment after the server listens.
pub fn create(address: SocketAddr) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        match attempt(address) {
            Ok(answer) if answer.contains("\"error\"") => bail!("JetStream refused the stream: {answer}"),
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error.context("JetStream does not answer")),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// The API's answer, JSON.
fn attempt(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let api = "$JS.API.STREAM.CREATE.IRISPERF";
    let hello = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB r.setup 1\r\n";
    write!(stream, "{hello}PUB {api} r.setup {}\r\n{STREAM}\r\n", STREAM.len())?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next() {
        let line = line?;
        if line.starts_with("-ERR") {
            bail!("{line}");
        }
        if line.starts_with("MSG ") {
            return lines.next().context("the answer is missing")?.map_err(Into::into);
        }
    }
    bail!("the server closed the connection")
}
