// SPDX-License-Identifier: Apache-2.0
//! Ambit on a cluster: its images and its charts, as a person would install them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::KubeCluster;
use crate::{
    config::Settings,
    image::{
        Image,
        product::{PRODUCTS, Source},
    },
};

/// Where it is installed.
pub const NAMESPACE: &str = "ambit-system";
/// Name of the Helm release.
pub const RELEASE: &str = "ambit";
/// Reference of the sample application's image.
pub const SAMPLE: &str = "ambit.local/lab-app:1";
const HUB: &str = "localhost/ambit";

/// Root of the repository that this was built from.
#[must_use]
pub fn repository() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// Gives every node the images of the mesh, made of the built programs.
///
/// # Errors
/// When a program has not been built, or a node refuses its image.
pub async fn load_images(cluster: &KubeCluster, settings: &Settings) -> Result<()> {
    let source = Source {
        root: repository(),
        binaries: settings.binaries.clone(),
        plugin: settings.plugin.clone(),
        output: cluster.shape().state.join("images"),
        hub: HUB.to_owned(),
        tag: Source::version().to_owned(),
    };
    for product in &PRODUCTS {
        let archive = source.write(product).with_context(|| format!("the image of {}", product.name))?;
        cluster.load(&archive).await?;
    }
    Ok(())
}

/// Gives every node the sample application.
///
/// # Errors
/// As [`load_images`].
pub async fn load_sample(cluster: &KubeCluster, settings: &Settings) -> Result<()> {
    let archive = cluster.shape().state.join("lab-app.tar");
    let mut image = Image::new(SAMPLE, &["/lab-app"]);
    image.add_program(&settings.binary("lab-app")?, "lab-app")?;
    image.write(&archive)?;
    cluster.load(&archive).await
}

/// Installs the mesh by Helm, with more of `helm install`'s arguments, and waits until all of it is ready.
///
/// # Errors
/// When Helm fails, with what it wrote.
pub async fn install(cluster: &KubeCluster, more: &[&str]) -> Result<String> {
    let chart = repository().join("charts/ambit").display().to_string();
    let arguments =
        ["install", RELEASE, &chart, "-n", NAMESPACE, "--create-namespace", "--wait", "--timeout", "3m"];
    cluster.helm(&[&arguments, more].concat()).await
}
