// SPDX-License-Identifier: Apache-2.0
//! nginx outside of the mesh, in a pod of its own and on a node's network, in front of pods that are inside.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use lab::{checks, eventually, http, image::Image, kube::suite::Check};

use crate::scene::{LABEL, NODES, SOON, Scene, addresses};

const IMAGE: &str = "ambit.local/nginx:1";
const PORT: u16 = 18081;
/// By the address of a service, and by those of its pods, as most ingress controllers do.
const WAYS: [&str; 2] = ["/by-service", "/by-pods"];

pub(crate) fn all() -> Vec<Check<Scene>> {
    checks![an_ingress_outside_of_the_mesh_is_served_until_mutual_tls_is_required_and_again_when_it_joins]
}

async fn an_ingress_outside_of_the_mesh_is_served_until_mutual_tls_is_required_and_again_when_it_joins(
    scene: &Scene,
) -> Result<()> {
    scene.load_nginx().await?;
    let own = scene.start_ingress("ingress", false).await?;
    let on_host = scene.start_ingress("ingress-host", true).await?;
    for ingress in [own, on_host] {
        scene.serves(ingress, "200").await?;
    }
    let strict = async {
        for ingress in [own, on_host] {
            scene.serves(ingress, "502").await?;
        }
        scene.cluster.kubectl(&["-n", "street", "label", "pod", "ingress", LABEL]).await?;
        scene.becomes_captured("street", "ingress", true).await?;
        scene.serves(own, "200").await?;
        scene.serves(on_host, "502").await.context("the network of a node is in no mesh")
    };
    scene.under_strict(Box::pin(strict)).await?;
    scene.serves(on_host, "200").await?;
    scene.cluster.kubectl(&["-n", "street", "delete", "pod", "ingress", "ingress-host"]).await.map(drop)
}

impl Scene {
    async fn load_nginx(&self) -> Result<()> {
        let nginx = self.settings.package("nginx", "usr/sbin/nginx")?;
        let archive = self.cluster.shape().state.join("nginx.tar");
        let mut image = Image::new(IMAGE, &["/nginx", "-p", "/", "-e", "stderr", "-c", "/conf/nginx.conf"]);
        image.add_program(&nginx, "nginx")?;
        // nginx asks who root is.
        image.add_text("etc/passwd", "root:x:0:0:root:/:/nginx\n");
        image.add_text("etc/group", "root:x:0:\n");
        image.write(&archive)?;
        self.cluster.load(&archive).await
    }

    /// Starts nginx in front of the shop; its address.
    async fn start_ingress(&self, pod: &str, on_host: bool) -> Result<IpAddr> {
        let service = SocketAddr::new(self.address_of("shop", "web").await?, 80);
        let pods = self.pods("shop", "app=web").await?;
        let pods: String = pods
            .iter()
            .flat_map(addresses)
            .map(|address| format!("server {}; ", SocketAddr::new(address, lab::echo::HTTP)))
            .collect();
        let [by_service, by_pods] = WAYS;
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path /{kind}; "))
            .concat();
        self.apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {pod}, namespace: street}}\ndata:\n  nginx.conf: |\n    daemon off;\n    \
             master_process off;\n    user root;\n    pid /nginx.pid;\n    events {{}}\n    http {{\n      access_log off; {temporary}\n      \
             upstream pods {{ {pods} }}\n      server {{\n        listen {PORT}; listen [::]:{PORT};\n        \
             location {by_service} {{ proxy_pass http://{service}; }}\n        location {by_pods} {{ proxy_pass http://pods; }}\n      \
             }}\n    }}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: street}}\nspec:\n  \
             nodeName: {}\n  hostNetwork: {on_host}\n  terminationGracePeriodSeconds: 0\n  volumes: [{{name: conf, configMap: \
             {{name: {pod}}}}}]\n  containers:\n  - {{name: nginx, image: \"{IMAGE}\", imagePullPolicy: Never, volumeMounts: [{{name: \
             conf, mountPath: /conf}}]}}\n",
            NODES[0]
        ))
        .await?;
        self.ready("street", pod).await?;
        addresses(&self.pod("street", pod).await?).first().copied().context("it has no address")
    }

    /// Waits until an ingress answers all ways with a status.
    async fn serves(&self, ingress: IpAddr, status: &str) -> Result<()> {
        for way in WAYS {
            let what = format!("{ingress}{way} answering {status}");
            eventually(SOON, &what, async || {
                let said = match http::get(SocketAddr::new(ingress, PORT), way).await {
                    Ok(_page) => "200".to_owned(),
                    Err(error) => format!("{error:#}"),
                };
                ensure!(said.contains(status), "it says {said}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}
