use std::{io, net::SocketAddr, pin::pin, sync::Arc};

use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

use super::{Reply, Shared, UDP_LIMIT};

/// The UDP and the TCP socket on one port.
pub(super) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Binds both sockets. For port 0, tries up to 16 ports until one is free for both TCP and UDP.
    pub(super) async fn bind(addr: SocketAddr) -> io::Result<Self> {
        let mut attempts = if addr.port() == 0 { 16 } else { 1 };
        loop {
            attempts -= 1;
            let tcp = TcpListener::bind(addr).await?;
            match UdpSocket::bind(tcp.local_addr()?).await {
                Ok(udp) => return Ok(Self { udp, tcp }),
                Err(error) if attempts == 0 => return Err(error),
                Err(_) => {}
            }
        }
    }

    pub(super) fn addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Serves both sockets forever.
    ///
    /// All work happens in this one future, so that dropping it closes all sockets and leaves no task.
    pub(super) async fn serve(self, shared: Arc<Shared>) {
        tokio::join!(serve_udp(&self.udp, &shared), serve_tcp(&self.tcp, &shared));
    }
}

async fn serve_udp(socket: &UdpSocket, shared: &Shared) {
    let packets = stream::unfold((), async |()| {
        let mut packet = vec![0; usize::from(UDP_LIMIT)];
        let received = socket.recv_from(&mut packet).await;
        Some(((packet, received), ()))
    });
    packets
        .for_each_concurrent(None, async |(packet, received)| {
            let Ok((length, peer)) = received else {
                return;
            };
            if let Reply::Send(answer) = shared.reply(&packet[..length], false).await {
                // The client may have closed its socket.
                let _ = socket.send_to(&answer, peer).await;
            }
        })
        .await;
}

async fn serve_tcp(listener: &TcpListener, shared: &Shared) {
    let accepted = stream::unfold((), async |()| Some((listener.accept().await, ())));
    accepted
        .for_each_concurrent(None, async |accepted| {
            if let Ok((connection, _)) = accepted {
                // The client may have closed the connection.
                let _ = serve_connection(connection, shared).await;
            }
        })
        .await;
}

async fn serve_connection(connection: TcpStream, shared: &Shared) -> io::Result<()> {
    let (reader, mut writer) = connection.into_split();
    let packets = stream::unfold(reader, async |mut reader| {
        let packet = read_packet(&mut reader).await.ok()?;
        Some((packet, reader))
    });
    let replies = packets
        .map(async |packet| shared.reply(&packet, true).await)
        .buffer_unordered(MAX_PIPELINED);
    let mut replies = pin!(replies);
    while let Some(reply) = replies.next().await {
        match reply {
            Reply::Send(answer) => {
                let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
                writer
                    .write_all(&[&length.to_be_bytes(), &*answer].concat())
                    .await?;
            }
            Reply::Nothing => {}
            Reply::Close => break,
        }
    }
    Ok(())
}

async fn read_packet(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = reader.read_u16().await?;
    let mut packet = vec![0; usize::from(length)];
    reader.read_exact(&mut packet).await?;
    Ok(packet)
}

const MAX_PIPELINED: usize = 64;
