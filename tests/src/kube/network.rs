// SPDX-License-Identifier: Apache-2.0
//! The network that a cluster's nodes stand in: a switch that is also the router, the hosts on it, and the machine's
//! own link into it.
//!
//! ```text
//! machine ─ ambitS ─┐                  ┌─ eth0 control
//!                   ├─ fabric (router) ┼─ eth0 node-a ─ cni0 ─ pods
//!                   │                  └─ eth0 node-b ─ a link to each of its pods
//! ```
//! Nodes know the way to each other's pods. Whoever else stands here sends what is not on the fabric to the router,
//! and the router knows where pods, services and balanced addresses are. It knows no way out.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context as _, Result, anyhow};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, RouteMessageBuilder};

use super::{
    addresses::{Block, FABRIC_PREFIX, MACHINE, ROUTER},
    shape::Shape,
};
use crate::net::{Namespace, addresses::Pair, link};

const BRIDGE: &str = "fabric";
const EVERYWHERE: [(IpAddr, u8); 2] =
    [(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0), (IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 0)];
/// The router sends packets back through the link that they came by, and nobody shall take a short cut for it.
const NO_REDIRECTS: &[(&str, &str)] = &[
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/default/accept_redirects", "0"),
];

/// Makes the fabric, with routes to the pods of every node that is to come.
///
/// # Errors
/// When the kernel refuses any part of it.
pub async fn fabric(shape: &Shape) -> Result<Namespace> {
    let namespace = link::host(shape.namespace("fabric").name()).await?;
    namespace.write_sysctls(NO_REDIRECTS)?;
    link::forward(&namespace)?;
    let (block, nodes) = (shape.block, shape.nodes);
    namespace
        .netlink(async move |netlink| {
            netlink.link().add(LinkBridge::new(BRIDGE).build()).execute().await.context("the bridge")?;
            address(&netlink, BRIDGE, block.fabric(ROUTER)).await?;
            link::up(&netlink, BRIDGE).await?;
            routes_to_pods(&netlink, block, 1..=nodes).await
        })
        .await?;
    Ok(namespace)
}

/// Makes host number `number` and plugs it into the fabric.
///
/// # Errors
/// When the kernel refuses any part of it.
pub async fn host(shape: &Shape, fabric: &Namespace, name: &str, number: u8) -> Result<Namespace> {
    let namespace = link::host(shape.namespace(name).name()).await?;
    namespace.write_sysctls(NO_REDIRECTS)?;
    plug(fabric, number, &namespace.path(), "eth0").await?;
    let (block, nodes) = (shape.block, shape.nodes);
    namespace
        .netlink(async move |netlink| {
            address(&netlink, "eth0", block.fabric(number)).await?;
            link::up(&netlink, "eth0").await?;
            let others = (1..=nodes).filter(|node| *node != number);
            routes_to_pods(&netlink, block, others).await?;
            let router = block.fabric(ROUTER);
            for (way, gateway) in EVERYWHERE.into_iter().zip(router.both()) {
                route(&netlink, way, gateway).await?;
            }
            Ok(())
        })
        .await?;
    Ok(namespace)
}

/// Gives the machine itself a link into the fabric, and routes to everything behind it.
///
/// # Errors
/// When the kernel refuses any part of it.
pub async fn join_machine(fabric: &Namespace, block: Block) -> Result<()> {
    let name = block.link();
    plug(fabric, MACHINE, Path::new("/proc/self/ns/net"), &name).await?;
    // Only this one link is touched; a machine without IPv6 has no such files.
    for (key, value) in
        [("disable_ipv6", "0"), ("accept_redirects", "0"), ("accept_dad", "0"), ("accept_ra", "0")]
    {
        let file = Path::new("/proc/sys/net/ipv6/conf").join(&name).join(key);
        if file.exists() {
            fs::write(&file, value).with_context(|| format!("setting {}", file.display()))?;
        }
    }
    let v6 = Path::new("/proc/sys/net/ipv6").exists();
    let (connection, netlink, _) = rtnetlink::new_connection().context("a netlink socket")?;
    let work = async {
        let own = block.fabric(MACHINE);
        link::add_address(&netlink, &name, IpAddr::V4(own.v4), FABRIC_PREFIX.0).await?;
        if v6 {
            link::add_address(&netlink, &name, IpAddr::V6(own.v6), FABRIC_PREFIX.1).await?;
        }
        link::up(&netlink, &name).await?;
        for range in [block.pods(), block.services(), block.balanced()] {
            for (way, gateway) in range.both().into_iter().zip(block.fabric(ROUTER).both()) {
                if v6 || gateway.is_ipv4() {
                    route(&netlink, way, gateway).await?;
                }
            }
        }
        anyhow::Ok(())
    };
    tokio::select! {
        outcome = work => outcome.context("the machine's link into the cluster"),
        () = connection => Err(anyhow!("the netlink connection closed")),
    }
}

/// Adds a route, or replaces the one to the same addresses.
///
/// # Errors
/// When the kernel refuses.
pub async fn route(netlink: &Handle, to: (IpAddr, u8), gateway: IpAddr) -> Result<()> {
    let message =
        RouteMessageBuilder::<IpAddr>::new().destination_prefix(to.0, to.1)?.gateway(gateway)?.build();
    netlink
        .route()
        .add(message)
        .replace()
        .execute()
        .await
        .with_context(|| format!("the route to {}/{} by {gateway}", to.0, to.1))
}

/// Removes a route.
///
/// # Errors
/// When the kernel refuses, for example because there is none.
pub async fn remove_route(netlink: &Handle, to: (IpAddr, u8)) -> Result<()> {
    let message = RouteMessageBuilder::<IpAddr>::new().destination_prefix(to.0, to.1)?.build();
    netlink.route().del(message).execute().await.with_context(|| format!("removing the route to {}", to.0))
}

async fn routes_to_pods(netlink: &Handle, block: Block, nodes: impl Iterator<Item = u8>) -> Result<()> {
    for node in nodes {
        for (way, gateway) in block.pods_of(node).both().into_iter().zip(block.fabric(node).both()) {
            route(netlink, way, gateway).await?;
        }
    }
    Ok(())
}

async fn plug(fabric: &Namespace, number: u8, member: &Path, name: &str) -> Result<()> {
    let port = format!("port{number}");
    link::veth(fabric, &port, member, name).await?;
    fabric
        .netlink(async move |netlink| {
            let bridge = link::index_of(&netlink, BRIDGE).await?;
            let message = LinkUnspec::new_with_name(&port).controller(bridge).up().build();
            netlink.link().set(message).execute().await.context("plugging a port in")
        })
        .await
}

async fn address(netlink: &Handle, name: &str, own: Pair) -> Result<()> {
    link::add_address(netlink, name, IpAddr::V4(own.v4), FABRIC_PREFIX.0).await?;
    link::add_address(netlink, name, IpAddr::V6(own.v6), FABRIC_PREFIX.1).await
}
