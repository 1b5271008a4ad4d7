// SPDX-License-Identifier: Apache-2.0
//! The files of a node: certificates, the settings of kubelet, containerd and the CNI plugin, the plugin's binaries.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::view;
use crate::kube::{
    build::PAUSE_IMAGE,
    certificates::{self, Authority, Subject},
    control_plane::server,
    shape::{Shape, node_name},
};

const PLUGINS: [&str; 4] = ["bridge", "ptp", "host-local", "loopback"];

pub(super) fn write(shape: &Shape, number: u8, folder: &Path, authority: &Authority) -> Result<()> {
    let name = node_name(number);
    for (_, own) in view::OWN {
        fs::create_dir_all(folder.join(own)).with_context(|| format!("making {own} of {name}"))?;
    }
    fs::create_dir_all(folder.join("containerd")).context("making a folder for containerd")?;
    for plugin in PLUGINS {
        fs::copy(shape.tools.program(plugin), folder.join("cni-bin").join(plugin))
            .with_context(|| format!("copying {plugin}"))?;
    }
    let user = format!("system:node:{name}");
    let client = authority.client(Subject { user: &user, group: Some("system:nodes") })?;
    let url = format!("https://{}", server(shape));
    certificates::write_kubeconfig(&folder.join("kubeconfig"), &shape.name, &url, authority, &client)?;
    let own = shape.block.fabric(number).both();
    certificates::write(folder, "kubelet", &authority.server(&user, &[&name], &own)?)?;
    let write = |file: &str, text: String| {
        fs::write(folder.join(file), text).with_context(|| format!("writing {file} of {name}"))
    };
    // What a pod without cluster DNS is told: there is no way out of the cluster, so there are no servers.
    write("resolv.conf", "# no servers\n".to_owned())?;
    write("containerd.toml", containerd(folder))?;
    write("cni-conf/10-ambit.conflist", format!("{:#}", network(shape, number)))?;
    write("kubelet.json", format!("{:#}", kubelet(shape, folder)))
}

fn containerd(folder: &Path) -> String {
    format!(
        r#"version = 3
root = "{root}"
state = "/run/containerd/state"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{sandbox}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    conf_dir = "/etc/cni/net.d"
    bin_dirs = ["/opt/cni/bin"]
[plugins.'io.containerd.nri.v1.nri']
  disable = true
"#,
        root = folder.join("containerd").display(),
        sandbox = PAUSE_IMAGE,
    )
}

/// Pods share a bridge, but on the last of several nodes each has a link of its own and the node routes: what is chained
/// behind a plugin has to get along with both.
fn network(shape: &Shape, number: u8) -> Value {
    let pods = shape.block.pods_of(number);
    let mut plugin = if number > 1 && number == shape.nodes {
        json!({"type": "ptp"})
    } else {
        json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true})
    };
    plugin["ipMasq"] = json!(false);
    plugin["ipam"] = json!({
        "type": "host-local",
        "ranges": [[{"subnet": pods.v4()}], [{"subnet": pods.v6()}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    });
    json!({"cniVersion": "1.0.0", "name": "ambit", "plugins": [plugin]})
}

fn kubelet(shape: &Shape, folder: &Path) -> Value {
    let file = |file: &str| folder.join(file).display().to_string();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": shape.pki("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": file("kubelet.crt"),
        "tlsPrivateKeyFile": file("kubelet.key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDNS": [shape.block.service(10).v4],
        "clusterDomain": "cluster.local",
        "resolvConf": file("resolv.conf"),
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        // The disk and the memory are the machine's, not the node's.
        "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%", "memory.available": "10Mi"},
        "imageGCHighThresholdPercent": 100,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        // Tests wait for what kubelets see: they look and tell more often.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
        "shutdownGracePeriod": "0s",
    })
}
