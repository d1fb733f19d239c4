//! The one request that the daemon answers to whoever is no session: `GET /metrics`, on its socket and, where that is
//! asked for, on a port of the loopback. A connection is one request of limited size, in limited time.

use agentmem_core::{Error, ErrorKind, Result};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// For all of a request, and for all of its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The two forms that Prometheus reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The classic one, 0.0.4.
    Text,
    /// OpenMetrics 1.0.0, for who asks for it.
    OpenMetrics,
}

impl Form {
    fn content_type(self) -> &'static str {
        match self {
            Form::Text => "text/plain; version=0.0.4; charset=utf-8",
            Form::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A connection, of either kind.
pub trait Connection: Read + Write {
    /// The longest that one read and one write may take from now on.
    fn limit(&self, time: Duration) -> io::Result<()>;
}

impl Connection for &UnixStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))?;
        self.set_write_timeout(Some(time))
    }
}

impl Connection for &TcpStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))?;
        self.set_write_timeout(Some(time))
    }
}

/// Answers the request that `connection` begins with.
///
/// # Errors
/// What reading and writing gave. Who is too slow gets no answer.
pub fn answer(mut connection: impl Connection, metrics: impl FnOnce(Form) -> String) -> io::Result<()> {
    let (status, content_type, body) = match read_head(&mut connection)?.as_deref().map(understand) {
        Some(Ok(form)) => ("200 OK", form.content_type(), metrics(form)),
        Some(Err(refusal)) => (refusal, Form::Text.content_type(), format!("{refusal}\nGET /metrics has figures.\n")),
        None => ("431 Request Header Fields Too Large", Form::Text.content_type(), String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let answer = head + &body;
    let (mut rest, end) = (answer.as_bytes(), Instant::now() + PATIENCE);
    while !rest.is_empty() {
        connection.limit(left(end)?)?;
        match connection.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// All before the first empty line; `None` if that is too much.
fn read_head(connection: &mut impl Connection) -> io::Result<Option<String>> {
    let (mut head, end) = (Vec::new(), Instant::now() + PATIENCE);
    let mut block = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Ok(None);
        }
        connection.limit(left(end)?)?;
        match connection.read(&mut block) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => head.extend_from_slice(&block[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The form that a request's head asks for, or the status that refuses it.
fn understand(head: &str) -> std::result::Result<Form, &'static str> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target, version) = (words.next(), words.next().unwrap_or_default(), words.next());
    if method != Some("GET") {
        return Err("405 Method Not Allowed");
    }
    if !version.is_some_and(|version| version.starts_with("HTTP/1.")) || words.next().is_some() {
        return Err("400 Bad Request");
    }
    let header = |wanted: &str| {
        let mut found = lines.clone().filter_map(|line| line.split_once(':'));
        found.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted)).map_or("", |(_, value)| value.trim())
    };
    // A page in somebody's browser may have had its own name lead to the loopback.
    if !is_local(header("host")) {
        return Err("403 Forbidden");
    }
    if target.split('?').next() != Some("/metrics") {
        return Err("404 Not Found");
    }
    let is_open = header("accept").contains("application/openmetrics-text");
    Ok(if is_open { Form::OpenMetrics } else { Form::Text })
}

fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "" | "localhost" | "127.0.0.1")
}

/// A port of the loopback, and of nothing else.
///
/// # Errors
/// `Io`, with the port and the way out.
pub fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
        let what = format!("metrics_port {port} of 127.0.0.1 ({error}): choose another, or leave it out");
        Error::new(ErrorKind::Io, what)
    })
}

/// Answers requests at `listener`, one after the other, until the process ends.
pub fn serve(listener: &TcpListener, metrics: impl Fn(Form) -> String) {
    for stream in listener.incoming() {
        match stream {
            // Whoever hangs up early has what it wanted.
            Ok(stream) => drop(answer(&stream, &metrics)),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(head: &str) -> std::result::Result<Form, &'static str> {
        understand(&head.replace('\n', "\r\n"))
    }

    #[test]
    fn one_thing_can_be_got() {
        assert_eq!(asked("GET /metrics HTTP/1.1\nHost: localhost\n\n"), Ok(Form::Text));
        assert_eq!(asked("GET /metrics?a=b HTTP/1.0\n\n"), Ok(Form::Text));
        let accept = "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.1";
        assert_eq!(asked(&format!("GET /metrics HTTP/1.1\nhost: 127.0.0.1:9464\n{accept}\n\n")), Ok(Form::OpenMetrics));
    }

    #[test]
    fn what_is_something_else_is_refused() {
        for (head, refusal) in [
            ("POST /metrics HTTP/1.1\n\n", "405"),
            ("GET /metrics\n\n", "400"),
            ("GET /metrics HTTP/2\n\n", "400"),
            ("GET /metrics HTTP/1.1 x\n\n", "400"),
            ("GET / HTTP/1.1\n\n", "404"),
            ("GET /metrics/x HTTP/1.1\n\n", "404"),
            ("GET /metrics HTTP/1.1\nHost: example.org\n\n", "403"),
            ("GET /metrics HTTP/1.1\nHost: 127.0.0.1.example.org:80\n\n", "403"),
            ("\n\n", "405"),
        ] {
            assert!(asked(head).unwrap_err().starts_with(refusal), "{head}");
        }
    }

    fn exchange(request: &[u8]) -> String {
        let (mut here, there) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ = answer(&there, |_| "figures\n".to_owned());
                let _ = there.shutdown(std::net::Shutdown::Both);
            });
            let _ = here.write_all(request);
            let _ = here.shutdown(std::net::Shutdown::Write);
            let mut text = String::new();
            let _ = here.read_to_string(&mut text);
            text
        })
    }

    #[test]
    fn an_answer_says_its_length() {
        let text = exchange(b"GET /metrics HTTP/1.1\r\n\r\n");
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\n")
                && text.ends_with("\r\nContent-Length: 8\r\nConnection: close\r\n\r\nfigures\n"),
            "{text}"
        );
    }

    #[test]
    fn a_request_has_a_limit_and_an_end() {
        assert!(exchange(&[b'G'; HEAD_BYTES_MAX]).starts_with("HTTP/1.1 431 "));
        assert_eq!(exchange(b"GET /metrics HTTP/1.1\r\n"), "", "cut off");
    }
}
