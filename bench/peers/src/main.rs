//! Responder and load generator of `compare.py gateways`, on epoll and one thread.
//!
//! - `peers respond PORT` responds to every request with 200, as the shop or as an endpoint without a check. Hardly any
//!   responder can do less work.
//! - `peers load ADDRESS SOURCE CONNECTIONS SECONDS` sends callbacks from an address, and prints the number of
//!   responses, the number of callbacks that got no 200, and the 99th percentile of the response times in microseconds.

use std::{
    env,
    error::Error,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use socket2::{Domain, Socket, Type};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["respond", port] => respond(port.parse()?)?,
        ["load", address, source, connections, seconds] => {
            let time = Duration::from_secs(seconds.parse()?);
            load(
                address.parse()?,
                source.parse()?,
                connections.parse()?,
                time,
            )?;
        }
        _ => {
            return Err(
                "usage: peers respond PORT | peers load ADDRESS SOURCE CONNECTIONS SECONDS".into(),
            );
        }
    }
    Ok(())
}

fn respond(port: u16) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut events = Events::with_capacity(256);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    let free = connections.iter().position(Option::is_none);
                    let id = free.unwrap_or(connections.len());
                    poll.registry()
                        .register(&mut stream, Token(id), Interest::READABLE)?;
                    let connection = Some(Connection::new(stream));
                    match connections.get_mut(id) {
                        Some(place) => *place = connection,
                        None => connections.push(connection),
                    }
                }
                continue;
            }
            let place = &mut connections[event.token().0];
            if place
                .as_mut()
                .is_some_and(|connection| !connection.answer())
            {
                *place = None;
            }
        }
    }
}

/// Connection with the received bytes that are not processed yet.
struct Connection {
    stream: TcpStream,
    bytes: Vec<u8>,
    sent: Instant,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self {
            stream,
            bytes: Vec::with_capacity(4096),
            sent: Instant::now(),
        }
    }

    /// Reads the bytes that have arrived. Returns `false` if the connection has ended or failed.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => {
                    self.bytes.extend_from_slice(&buffer[..length]);
                    // After a read that does not fill the buffer, no more bytes are available.
                    if length < buffer.len() {
                        return true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
    }

    /// Responds to all complete requests. Returns `false` if the connection has ended or must be closed.
    fn answer(&mut self) -> bool {
        let open = self.read();
        while let Some((head, end)) = message(&self.bytes) {
            let closes =
                contains(head, b" http/1.0\r\n") || contains(head, b"\r\nconnection: close");
            self.bytes.drain(..end);
            if self.stream.write_all(RESPONSE).is_err() || closes {
                return false;
            }
        }
        open
    }
}

/// Returns the head and the length of the first message, if the message is complete.
fn message(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let head_end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = &bytes[..head_end];
    if contains(head, b"\r\ntransfer-encoding: chunked") {
        let end = bytes[head_end - 2..]
            .windows(7)
            .position(|window| window == b"\r\n0\r\n\r\n");
        return end.map(|end| (head, head_end - 2 + end + 7));
    }
    let end = head_end + content_length(head);
    (bytes.len() >= end).then_some((head, end))
}

fn content_length(head: &[u8]) -> usize {
    const NAME: &[u8] = b"\r\ncontent-length:";
    let start = head
        .windows(NAME.len())
        .position(|window| window.eq_ignore_ascii_case(NAME));
    let value = start
        .map(|start| &head[start + NAME.len()..])
        .unwrap_or_default();
    let digits = value
        .trim_ascii_start()
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'))
}

fn contains(head: &[u8], text: &[u8]) -> bool {
    head.windows(text.len())
        .any(|window| window.eq_ignore_ascii_case(text))
}

fn load(address: SocketAddr, source: IpAddr, connections: usize, time: Duration) -> io::Result<()> {
    let body = format!(
        "{{\"reference\":\"order-1\",\"pad\":\"{}\"}}",
        "x".repeat(221)
    );
    let request = format!(
        "POST /vipps/v2/payments/order-1 HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut poll = Poll::new()?;
    let mut clients = Vec::new();
    for id in 0..connections {
        clients.push(connect(&poll, address, source, id, request.as_bytes())?);
    }
    let mut events = Events::with_capacity(256);
    let (mut times, mut errors) = (Vec::new(), 0);
    let end = Instant::now() + time;
    while Instant::now() < end {
        match poll.poll(&mut events, Some(Duration::from_millis(100))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            let id = event.token().0;
            let client: &mut Connection = &mut clients[id];
            let open = client.read();
            let answered = message(&client.bytes).map(|(head, end)| {
                (
                    head.starts_with(b"HTTP/1.1 200"),
                    contains(head, b"connection: close"),
                    end,
                )
            });
            if let Some((is_ok, closes, end)) = answered {
                client.bytes.drain(..end);
                times.push(client.sent.elapsed());
                errors += usize::from(!is_ok);
                client.sent = Instant::now();
                if !closes && open && client.stream.write_all(request.as_bytes()).is_ok() {
                    continue;
                }
            } else if open {
                continue;
            } else {
                errors += 1;
            }
            clients[id] = connect(&poll, address, source, id, request.as_bytes())?;
        }
    }
    times.sort_unstable();
    let p99 = times
        .get(times.len() * 99 / 100)
        .map_or(0, Duration::as_micros);
    println!("{} {errors} {p99}", times.len());
    Ok(())
}

fn connect(
    poll: &Poll,
    address: SocketAddr,
    source: IpAddr,
    id: usize,
    request: &[u8],
) -> io::Result<Connection> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect(&address.into())?;
    socket.set_nonblocking(true)?;
    let mut stream = TcpStream::from_std(socket.into());
    stream.write_all(request)?;
    poll.registry()
        .register(&mut stream, Token(id), Interest::READABLE)?;
    Ok(Connection::new(stream))
}

const LISTENER: Token = Token(usize::MAX - 1);

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
