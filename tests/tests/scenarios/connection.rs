// SPDX-License-Identifier: Apache-2.0
//! What TCP promises its applications, kept across the mesh: every byte, half-close, whoever speaks first.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lab::echo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::scene::{SOON, Scenario, Scene, a_thousand_bring_back_every_byte, refused, scenarios};

pub(crate) fn all() -> Vec<Scenario> {
    scenarios![
        a_server_may_speak_first,
        a_half_closed_connection_still_carries_the_answer,
        a_server_may_half_close_first,
        a_reset_of_the_client_reaches_the_server,
        a_thousand_concurrent_connections_bring_back_every_byte,
        a_port_where_nobody_listens_is_refused_at_once,
        a_large_transfer_arrives_whole_though_the_reader_is_slow,
    ]
}

async fn a_server_may_speak_first(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let client = scene.captured("a", "client").await?;
    for ip in server.addresses().both() {
        let mut stream = client.connect(SocketAddr::new(ip, echo::BANNER)).await?;
        let mut banner = [0; 7];
        timeout(SOON, stream.read_exact(&mut banner)).await.context("no banner")??;
        ensure!(&banner == b"server\n", "{:?}", String::from_utf8_lossy(&banner));
        crate::policy::ask(&mut stream, "and now I").await?;
    }
    Ok(())
}

async fn a_half_closed_connection_still_carries_the_answer(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let client = scene.captured("a", "client").await?;
    let request = vec![7; 300_000];
    for ip in server.addresses().both() {
        let (mut reader, mut writer) = client.connect(SocketAddr::new(ip, echo::TCP)).await?.into_split();
        let mut back = Vec::new();
        let send = async {
            writer.write_all(&request).await?;
            writer.shutdown().await
        };
        let (sent, received) = timeout(SOON, async { tokio::join!(send, reader.read_to_end(&mut back)) })
            .await
            .context("the end did not come")?;
        sent?;
        received?;
        ensure!(back == request, "{} of {} bytes came back", back.len(), request.len());
    }
    Ok(())
}

async fn a_server_may_half_close_first(scene: Scene) -> Result<()> {
    let server = scene.captured("b", "server").await?;
    let client = scene.captured("a", "client").await?;
    let listener = server.listen(7000).await?;
    for ip in server.addresses().both() {
        let (client, accepted) = tokio::join!(client.connect(SocketAddr::new(ip, 7000)), listener.accept());
        let (mut client, (mut accepted, _peer)) = (client?, accepted?);
        accepted.write_all(b"bye").await?;
        accepted.shutdown().await?;
        let mut told = Vec::new();
        timeout(SOON, client.read_to_end(&mut told)).await.context("the server's end did not come")??;
        ensure!(told == b"bye", "{told:?}");
        client.write_all(b"I go on").await?;
        client.shutdown().await?;
        let mut heard = Vec::new();
        timeout(SOON, accepted.read_to_end(&mut heard)).await.context("the client's end did not come")??;
        ensure!(heard == b"I go on", "{heard:?}");
    }
    Ok(())
}

async fn a_reset_of_the_client_reaches_the_server(scene: Scene) -> Result<()> {
    let server = scene.captured("b", "server").await?;
    let client = scene.captured("a", "client").await?;
    let listener = server.listen(7000).await?;
    let (client, accepted) =
        tokio::join!(client.connect(SocketAddr::new(server.v4(), 7000)), listener.accept());
    let (client, (mut accepted, _peer)) = (client?, accepted?);
    // Closing with a linger of zero sends RST instead of FIN.
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    drop(client);
    let mut byte = [0; 1];
    let end = timeout(SOON, accepted.read(&mut byte)).await.context("the server was not told")?;
    ensure!(!matches!(end, Ok(1..)), "data instead of the end");
    Ok(())
}

async fn a_thousand_concurrent_connections_bring_back_every_byte(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let client = scene.captured("a", "client").await?;
    a_thousand_bring_back_every_byte(&client, &server, 1000).await
}

async fn a_port_where_nobody_listens_is_refused_at_once(scene: Scene) -> Result<()> {
    let server = scene.captured("b", "server").await?;
    let client = scene.captured("a", "client").await?;
    let told = refused(&client, server.v4()).await?;
    ensure!(told != "no answer", "the client was left waiting");
    Ok(())
}

async fn a_large_transfer_arrives_whole_though_the_reader_is_slow(scene: Scene) -> Result<()> {
    const LENGTH: usize = 64 << 20;
    let server = scene.captured("b", "server").await?;
    let client = scene.captured("a", "client").await?;
    let listener = server.listen(7000).await?;
    let (client, accepted) =
        tokio::join!(client.connect(SocketAddr::new(server.v4(), 7000)), listener.accept());
    let (mut client, (mut accepted, _peer)) = (client?, accepted?);
    let send = async {
        let block: Vec<u8> = (0..=250).cycle().take(251 * 400).collect();
        let mut left = LENGTH;
        while left > 0 {
            let length = left.min(block.len());
            client.write_all(block.get(..length).unwrap_or_default()).await?;
            left -= length;
        }
        client.shutdown().await?;
        anyhow::Ok(())
    };
    let receive = async {
        let mut buffer = vec![0; 200_000];
        let mut received = 0;
        loop {
            // A reader that lets others run between any two reads is slower than any writer.
            tokio::task::yield_now().await;
            let length = accepted.read(&mut buffer).await?;
            if length == 0 {
                break;
            }
            let wrong = buffer
                .iter()
                .take(length)
                .enumerate()
                .find(|(at, byte)| usize::from(**byte) != (received + at) % 251);
            ensure!(wrong.is_none(), "wrong byte at {}", received + wrong.map_or(0, |(at, _)| at));
            received += length;
        }
        ensure!(received == LENGTH, "{received} of {LENGTH} bytes");
        Ok(())
    };
    timeout(Duration::from_secs(60), async { tokio::try_join!(send, receive) })
        .await
        .context("too slow")??;
    Ok(())
}
