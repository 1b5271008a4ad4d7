// SPDX-License-Identifier: Apache-2.0
//! Ambit's own images. Each holds its programs, the shared libraries that they need, the files by which names and users
//! are found, the licence and a bill of materials; there is no shell.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Image, libraries, sbom};

/// The program that the agent copies onto the node's own file system.
const PLUGIN: &str = "cni";
/// What every image can do without being root (the user that distroless images call `nonroot`).
const NOBODY: &str = "65532:65532";
const PASSWD: &str = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\n";
/// What is in the files comes before what a name server says.
const NSSWITCH: &str = "hosts: files dns\n";

/// One of the images.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// The last part of its reference.
    pub name: &'static str,
    /// Package of the workspace that its programs come from.
    package: &'static str,
    /// Its programs in `/usr/local/bin`; the first is what it runs.
    programs: &'static [&'static str],
    /// Whether its job needs root.
    root: bool,
    title: &'static str,
}

/// All of them. ztunnel opens sockets in pods' network namespaces and the agent loads eBPF: capabilities for that go to
/// root alone.
pub const PRODUCTS: [Product; 4] = [
    Product {
        name: "control",
        package: "control",
        programs: &["control"],
        root: false,
        title: "Ambit's control plane",
    },
    Product {
        name: "node",
        package: "node",
        programs: &["node-agent", PLUGIN],
        root: true,
        title: "Ambit's node agent and CNI plugin",
    },
    Product {
        name: "ztunnel",
        package: "ztunnel",
        programs: &["ztunnel"],
        root: true,
        title: "Ambit's L4 proxy",
    },
    Product {
        name: "waypoint",
        package: "waypoint",
        programs: &["waypoint"],
        root: false,
        title: "Ambit's L7 proxy",
    },
];

/// What images are made of.
#[derive(Clone, Debug)]
pub struct Source {
    /// Root of the repository.
    pub root: PathBuf,
    /// Folder of the built programs.
    pub binaries: PathBuf,
    /// The CNI plugin, linked statically: for nodes with another C library. Without it, that of `binaries`.
    pub plugin: Option<PathBuf>,
    /// Folder for the archives, and for what is written on the way.
    pub output: PathBuf,
    /// What comes before the names of images: a registry and a folder in it.
    pub hub: String,
    /// Their tag.
    pub tag: String,
}

impl Source {
    /// The version of the workspace, which is the tag of images unless somebody says otherwise.
    #[must_use]
    pub fn version() -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// Writes the archive of an image, and its bill of materials beside it; the path of the archive.
    ///
    /// # Errors
    /// When a program has not been built, or a tool (`strip`, `ldd`, `cargo`, `dpkg`) fails.
    pub fn write(&self, product: &Product) -> Result<PathBuf> {
        fs::create_dir_all(&self.output).context("making a folder for images")?;
        let reference = format!("{}/{}:{}", self.hub, product.name, self.tag);
        let main = product.programs.first().copied().unwrap_or(product.name);
        let mut image = Image::new(&reference, &[&format!("/usr/local/bin/{main}")]);
        if !product.root {
            image.set_user(NOBODY);
        }
        let mut shared = Vec::new();
        for program in product.programs {
            let stripped = self.stripped(program)?;
            image.add_program(&stripped, &format!("usr/local/bin/{program}"))?;
            shared.extend(libraries(&stripped)?);
        }
        for (path, text) in [("etc/passwd", PASSWD), ("etc/group", GROUP), ("etc/nsswitch.conf", NSSWITCH)] {
            image.add_text(path, text);
        }
        image.add(&self.root.join("LICENSE"), "usr/share/doc/ambit/LICENSE")?;
        let materials = sbom::of(&self.root, product.package, &shared)?;
        let text = serde_json::to_string_pretty(&materials)?;
        image.add_text(&format!("usr/share/sbom/{}.spdx.json", product.name), &text);
        self.label(&mut image, product, &materials);
        let archive = self.output.join(format!("{}.tar", product.name));
        image.write(&archive)?;
        fs::write(archive.with_extension("spdx.json"), text).context("writing the bill of materials")?;
        Ok(archive)
    }

    fn label(&self, image: &mut Image, product: &Product, materials: &Value) {
        let created = materials.pointer("/creationInfo/created").and_then(Value::as_str).unwrap_or_default();
        for (name, value) in [
            ("title", product.title),
            ("version", &self.tag),
            ("licenses", "Apache-2.0"),
            ("created", created),
        ] {
            image.add_label(&format!("org.opencontainers.image.{name}"), value);
        }
    }

    /// A program without what only a debugger reads; the names of functions stay, for backtraces.
    fn stripped(&self, program: &str) -> Result<PathBuf> {
        let plugin = self.plugin.as_ref().filter(|_| program == PLUGIN);
        let built = plugin.cloned().unwrap_or_else(|| self.binaries.join(program));
        ensure!(built.is_file(), "{} is not there: build it with `cargo build --bins`", built.display());
        let folder = self.output.join("programs");
        fs::create_dir_all(&folder).context("making a folder for stripped programs")?;
        let stripped = folder.join(program);
        let mut strip = Command::new("strip");
        let status = strip.arg("--strip-debug").arg("-o").arg(&stripped).arg(&built).status();
        let status = status.context("executing strip: `apt-get install -y binutils`")?;
        ensure!(status.success(), "strip {}: {status}", built.display());
        ensure!(
            plugin.is_none() || libraries(&stripped)?.is_empty(),
            "{} needs libraries, and is to run where there may be none",
            built.display()
        );
        Ok(stripped)
    }
}
