// SPDX-License-Identifier: Apache-2.0
//! The sample application of the lab: servers, clients and load, small enough to be above suspicion. It knows no mesh.

mod call;
mod checksum;
mod load;
mod names;
mod serve;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The sample application of the lab.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Serve),
    Load(load::Load),
    Call(call::Call),
    Dns(names::Dns),
    DnsServer(names::DnsServer),
    Checksum(checksum::Checksum),
}

#[tokio::main]
async fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Serve(serve) => serve.run().await,
        Command::Load(load) => load.run().await,
        Command::Call(call) => call.run().await,
        Command::Dns(dns) => dns.run().await,
        Command::DnsServer(server) => server.run().await,
        Command::Checksum(checksum) => checksum.run().await,
    }
}
