// SPDX-License-Identifier: Apache-2.0
//! What many workloads cost the two ztunnels in memory. They come as endpoints of service entries, which control turns into
//! workloads one by one. Whether all are known is asked of control, which hears of it from the ztunnels: a dump of so many
//! would cost a ztunnel more memory than they do.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lab::{eventually, http};
use serde_json::Value;

use super::{memory::steady, place::Configuration, report::Figure};

/// Manifests, services in each, workloads of each service.
const FILES: u32 = 10;
const SERVICES: u32 = 100;
const ENDPOINTS: u32 = 100;
/// Addresses of the workloads and of the services, one after another; the lab has none of them.
const FIRST_WORKLOAD: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
const FIRST_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 0);
/// Where control says what it has told to whom.
const STATUS: u16 = 15014;
/// How long control and the ztunnels may take, and how often control is asked.
const LIMIT: Duration = Duration::from_secs(180);
const GLANCE: Duration = Duration::from_millis(250);

/// Growth of each side by all of them; afterwards they are gone.
pub(super) async fn measure(place: &Configuration) -> Result<Vec<(Figure, f64)>> {
    let pids = place.proxies()?;
    let known = addresses(&status(place).await?)?;
    let before = steady(&pids).await?;
    publish(place, manifest)?;
    told(place, known + u64::from(FILES * SERVICES * (ENDPOINTS + 1))).await?;
    let after = steady(&pids).await?;
    publish(place, |_number| "# Nothing is left here.\n".to_owned())?;
    told(place, known).await?;
    let grown = after.into_iter().zip(before).map(|(after, before)| after - before);
    Ok([Figure::WorkloadsClient, Figure::WorkloadsServer].into_iter().zip(grown).collect())
}

fn publish(place: &Configuration, text: impl Fn(u32) -> String) -> Result<()> {
    (0..FILES)
        .try_for_each(|number| place.cluster.publish(&format!("bench-workloads-{number}"), &text(number)))
}

/// Waits until control has so many workloads and services, and all proxies have acknowledged them.
async fn told(place: &Configuration, wanted: u64) -> Result<()> {
    let what = format!("ztunnels of {} knowing {wanted} workloads and services", place.name);
    eventually(LIMIT, &what, async || {
        tokio::time::sleep(GLANCE).await;
        acknowledged(&status(place).await?, wanted)
    })
    .await
}

async fn status(place: &Configuration) -> Result<Value> {
    let host = place.cluster.control().host();
    let address = SocketAddr::from((host.addresses.v4, STATUS));
    let text = host.namespace.run(async move || http::get(address, "/status").await).await?;
    serde_json::from_str(&text).context("reading /status")
}

fn addresses(status: &Value) -> Result<u64> {
    status["resources"]["Address"].as_u64().context("control counts no addresses")
}

fn acknowledged(status: &Value, wanted: u64) -> Result<()> {
    let known = addresses(status)?;
    ensure!(known == wanted, "control has {known}");
    let proxies = status["proxies"].as_array().context("no list of proxies")?;
    ensure!(!proxies.is_empty(), "no proxy is connected");
    for proxy in proxies {
        ensure!(proxy["types"]["Address"]["synced"] == true, "{} does not know all", proxy["node"]);
    }
    Ok(())
}

/// One file of services with their workloads.
fn manifest(number: u32) -> String {
    let mut text = String::new();
    for service in number * SERVICES..(number + 1) * SERVICES {
        let address = nth(FIRST_SERVICE, service);
        write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata: {{name: bulk-{service:04}, namespace: default}}\n\
             spec:\n  hosts: [bulk-{service:04}.bench.internal]\n  addresses: [{address}]\n\
             \x20 location: MESH_INTERNAL\n  resolution: STATIC\n\
             \x20 ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}]\n  endpoints:\n"
        )
        .unwrap_or_default();
        for endpoint in service * ENDPOINTS..(service + 1) * ENDPOINTS {
            let address = nth(FIRST_WORKLOAD, endpoint);
            let labels = format!("{{app: bulk-{service:04}, version: v1}}");
            writeln!(text, "  - {{address: {address}, serviceAccount: bulk, labels: {labels}}}")
                .unwrap_or_default();
        }
    }
    text
}

fn nth(first: Ipv4Addr, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first) + number)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn every_workload_has_an_address_of_its_own() {
        let files: Vec<String> = (0..FILES).map(manifest).collect();
        let lines = files.iter().flat_map(|file| file.lines());
        let addresses: BTreeSet<&str> =
            lines.filter_map(|line| line.strip_prefix("  - {address: ")?.split(',').next()).collect();
        assert_eq!(addresses.len(), 100_000);
        assert!(addresses.contains("10.64.0.0") && addresses.contains("10.65.134.159"));
    }

    #[test]
    fn what_control_has_is_known_when_every_proxy_has_acknowledged_it() {
        let status = |synced: [bool; 2]| {
            let proxy = |synced: bool| json!({"node": "z", "types": {"Address": {"synced": synced}}});
            json!({"resources": {"Address": 7}, "proxies": synced.map(proxy)})
        };
        assert!(acknowledged(&status([true, true]), 7).is_ok());
        assert!(acknowledged(&status([true, true]), 8).is_err());
        assert!(acknowledged(&status([true, false]), 7).is_err());
        assert!(acknowledged(&json!({"resources": {"Address": 7}, "proxies": []}), 7).is_err());
    }
}
