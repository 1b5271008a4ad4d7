// SPDX-License-Identifier: Apache-2.0
//! Links, addresses and routes, by rtnetlink from inside the namespaces they belong to.

use std::{fs::File, net::IpAddr, os::fd::AsRawFd as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::AddressHeaderFlags,
        link::{InfoData, InfoVeth},
        route::RouteScope,
    },
};

use super::{
    Namespace,
    addresses::{self, FABRIC_PREFIX, GATEWAY, Pair},
};

const BRIDGE: &str = "fabric";
/// Addresses are usable at once (no duplicate address detection), and nobody looks for routers.
const QUIET: &[(&str, &str)] = &[
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];
const FORWARDS: &[(&str, &str)] = &[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")];
const SWITCH_ONLY: &[(&str, &str)] = &[("net/ipv6/conf/default/disable_ipv6", "1")];

/// Makes a namespace whose loopback is up.
///
/// # Errors
/// When the kernel refuses any part of it; nothing is left behind then.
pub async fn host(name: &str) -> Result<Namespace> {
    let namespace = Namespace::create(name)?;
    let prepared = async {
        namespace.write_sysctls(QUIET)?;
        namespace.netlink(async |netlink| up(&netlink, "lo").await).await
    };
    if let Err(error) = prepared.await {
        namespace.delete()?;
        return Err(error);
    }
    Ok(namespace)
}

/// Makes the namespace of the fabric: a switch between the hosts of a lab.
///
/// # Errors
/// When the kernel refuses any part of it.
pub async fn fabric(name: &str) -> Result<Namespace> {
    let namespace = host(name).await?;
    namespace.write_sysctls(SWITCH_ONLY)?;
    namespace
        .netlink(async |netlink| {
            netlink.link().add(LinkBridge::new(BRIDGE).build()).execute().await.context("the bridge")
        })
        .await?;
    Ok(namespace)
}

/// Plugs `member` into the fabric as host number `host`, with routes to the pods of `nodes`.
///
/// # Errors
/// When the kernel refuses any part of it.
pub async fn join_fabric(fabric: &Namespace, member: &Namespace, host: u8, nodes: &[u8]) -> Result<()> {
    let port = format!("port{host}");
    veth(fabric, &port, &member.path(), "eth0").await?;
    fabric
        .netlink(async move |netlink| {
            let bridge = index_of(&netlink, BRIDGE).await?;
            let message = LinkUnspec::new_with_name(&port).controller(bridge).up().build();
            netlink.link().set(message).execute().await.context("plugging a port in")
        })
        .await?;
    let own = addresses::fabric(host);
    let nodes: Vec<u8> = nodes.iter().copied().filter(|node| *node != host).collect();
    member
        .netlink(async move |netlink| {
            add_address(&netlink, "eth0", IpAddr::V4(own.v4), FABRIC_PREFIX.0).await?;
            add_address(&netlink, "eth0", IpAddr::V6(own.v6), FABRIC_PREFIX.1).await?;
            up(&netlink, "eth0").await?;
            for node in nodes {
                let via = addresses::fabric(node);
                let pods = addresses::pod(node, 0);
                let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                    .destination_prefix(pods.v4, 24)
                    .gateway(via.v4);
                let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                    .destination_prefix(pods.v6, 64)
                    .gateway(via.v6);
                netlink.route().add(v4.build()).execute().await.context("the route to a node's pods")?;
                netlink.route().add(v6.build()).execute().await.context("the IPv6 route to a node's pods")?;
            }
            Ok(())
        })
        .await
}

/// Lets a namespace forward packets, as a node does for its pods.
///
/// # Errors
/// When the sysctls cannot be written.
pub fn forward(node: &Namespace) -> Result<()> {
    node.write_sysctls(FORWARDS)
}

/// Connects a pod to its node the way a routing CNI does: `eth0` with host addresses, the node as link-local gateway,
/// and on the node a route to exactly that pod. `port` is the link's name on the node.
///
/// # Errors
/// When the kernel refuses any part of it.
pub async fn connect_pod(node: (&Namespace, Pair), port: &str, pod: (&Namespace, Pair)) -> Result<()> {
    veth(node.0, port, &pod.0.path(), "eth0").await?;
    let (near, far) = (node.1, pod.1);
    let port = port.to_owned();
    node.0
        .netlink(async move |netlink| {
            add_address(&netlink, &port, IpAddr::V4(GATEWAY.0), 32).await?;
            add_address(&netlink, &port, IpAddr::V6(GATEWAY.1), 64).await?;
            up(&netlink, &port).await?;
            let link = index_of(&netlink, &port).await?;
            // The node's own packets to a pod come from the node's address, not from the gateway's.
            let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(far.v4, 32)
                .output_interface(link)
                .scope(RouteScope::Link)
                .pref_source(near.v4);
            let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(far.v6, 128)
                .output_interface(link)
                .pref_source(near.v6);
            netlink.route().add(v4.build()).execute().await.context("the route to the pod")?;
            netlink.route().add(v6.build()).execute().await.context("the IPv6 route to the pod")
        })
        .await?;
    pod.0
        .netlink(async move |netlink| {
            add_address(&netlink, "eth0", IpAddr::V4(far.v4), 32).await?;
            add_address(&netlink, "eth0", IpAddr::V6(far.v6), 128).await?;
            up(&netlink, "eth0").await?;
            let link = index_of(&netlink, "eth0").await?;
            let gateway = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(GATEWAY.0, 32)
                .output_interface(link)
                .scope(RouteScope::Link);
            let v4 =
                RouteMessageBuilder::<std::net::Ipv4Addr>::new().gateway(GATEWAY.0).output_interface(link);
            let v6 =
                RouteMessageBuilder::<std::net::Ipv6Addr>::new().gateway(GATEWAY.1).output_interface(link);
            netlink.route().add(gateway.build()).execute().await.context("the route to the gateway")?;
            netlink.route().add(v4.build()).execute().await.context("the default route")?;
            netlink.route().add(v6.build()).execute().await.context("the IPv6 default route")
        })
        .await
}

/// Removes a link of a namespace together with its other end; one that is gone already is no error.
///
/// # Errors
/// When the kernel refuses.
pub async fn remove(namespace: &Namespace, link: &str) -> Result<()> {
    let link = link.to_owned();
    namespace
        .netlink(async move |netlink| match index_of(&netlink, &link).await {
            Ok(index) => {
                netlink.link().del(index).execute().await.with_context(|| format!("removing {link}"))
            }
            Err(_gone) => Ok(()),
        })
        .await
}

/// The kernel's number of a link.
///
/// # Errors
/// When there is no such link.
pub async fn index_of(netlink: &Handle, link: &str) -> Result<u32> {
    let mut found = std::pin::pin!(netlink.link().get().match_name(link).execute());
    let message = found.try_next().await.with_context(|| format!("looking for link {link}"))?;
    Ok(message.with_context(|| format!("no link {link}"))?.header.index)
}

/// Makes a pair of links. `far` is the file of the far end's namespace.
pub(crate) async fn veth(near: &Namespace, near_name: &str, far: &Path, far_name: &str) -> Result<()> {
    ensure!(near_name.len() < 16 && far_name.len() < 16, "a link's name has at most 15 bytes: {near_name}");
    let (near_name, far_name) = (near_name.to_owned(), far_name.to_owned());
    let far = File::open(far).context("opening the far namespace")?;
    near.netlink(async move |netlink| {
        // The far end is born in its own namespace: no name of it is ever visible in another.
        let peer =
            LinkMessageBuilder::<LinkUnspec>::new().name(far_name).setns_by_fd(far.as_raw_fd()).build();
        let pair = LinkVeth::new(&near_name, "").set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
        netlink.link().add(pair).execute().await.with_context(|| format!("the link {near_name}"))
    })
    .await
}

pub(crate) async fn up(netlink: &Handle, link: &str) -> Result<()> {
    let message = LinkUnspec::new_with_name(link).up().build();
    netlink.link().set(message).execute().await.with_context(|| format!("setting {link} up"))
}

pub(crate) async fn add_address(netlink: &Handle, link: &str, address: IpAddr, prefix: u8) -> Result<()> {
    let index = index_of(netlink, link).await?;
    let mut request = netlink.address().add(index, address, prefix);
    request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    request.execute().await.with_context(|| format!("address {address}/{prefix} on {link}"))
}
