// SPDX-License-Identifier: Apache-2.0
//! The load-balancer of a cluster: runs in the namespace of the cluster's router, beside no other program.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;
use lab::kube::{addresses::Block, balancer::Balancer};

/// Gives Services of type LoadBalancer their addresses.
#[derive(Parser)]
struct Cli {
    /// The API server.
    #[arg(long)]
    server: SocketAddr,
    /// Folder with `ca.crt`, `balancer.crt` and `balancer.key`.
    #[arg(long)]
    certificates: PathBuf,
    /// Number of the cluster's block of addresses.
    #[arg(long)]
    block: u8,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let block = Block::numbered(cli.block).context("there is no such block")?;
    let balancer = Balancer::new(cli.server, &cli.certificates, block)?;
    Box::pin(balancer.run()).await
}
