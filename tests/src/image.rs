// SPDX-License-Identifier: Apache-2.0
//! Container images: archives in OCI layout with a single layer, written without a daemon. The same input gives the
//! same bytes. `product` says what Ambit's own images contain, `sbom` what they are made of.

pub mod product;
pub mod sbom;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const MEDIA: &str = "application/vnd.oci.image.";

/// An image that is being put together.
#[derive(Clone, Debug)]
pub struct Image {
    reference: String,
    entrypoint: Vec<String>,
    /// User and group by number (`65532:65532`); none: root.
    user: Option<String>,
    labels: BTreeMap<String, String>,
    files: BTreeMap<String, Content>,
}

#[derive(Clone, Debug)]
enum Content {
    File(PathBuf),
    Text(String),
}

struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Image {
    /// An image without files.
    #[must_use]
    pub fn new(reference: &str, entrypoint: &[&str]) -> Self {
        Self {
            reference: reference.to_owned(),
            entrypoint: entrypoint.iter().map(|word| (*word).to_owned()).collect(),
            user: None,
            labels: BTreeMap::new(),
            files: BTreeMap::new(),
        }
    }

    /// Who runs its program, by numbers.
    pub fn set_user(&mut self, user: &str) {
        self.user = Some(user.to_owned());
    }

    /// Adds a label (`org.opencontainers.image.version`).
    pub fn add_label(&mut self, name: &str, value: &str) {
        self.labels.insert(name.to_owned(), value.to_owned());
    }

    /// Adds a file under a path without a leading slash.
    ///
    /// # Errors
    /// When it is not there.
    pub fn add(&mut self, source: &Path, path: &str) -> Result<()> {
        ensure!(source.is_file(), "{} is no file", source.display());
        self.put(path, Content::File(source.to_path_buf()));
        Ok(())
    }

    /// Adds a file with this text.
    pub fn add_text(&mut self, path: &str, text: &str) {
        self.put(path, Content::Text(text.to_owned()));
    }

    /// Adds a program with the shared libraries that it needs, as this machine has them.
    ///
    /// # Errors
    /// When a library is missing.
    pub fn add_program(&mut self, source: &Path, path: &str) -> Result<()> {
        self.add(source, path)?;
        for library in libraries(source)? {
            self.add(&library, &library.display().to_string())?;
        }
        Ok(())
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// When a file cannot be read or the archive cannot be written.
    pub fn write(&self, archive: &Path) -> Result<()> {
        let layer = Blob::new(self.layer()?);
        let config = Blob::json(&self.config(&layer.digest))?;
        let manifest = Blob::json(&json!({
            "schemaVersion": 2,
            "mediaType": format!("{MEDIA}manifest.v1+json"),
            "config": config.descriptor("config.v1+json"),
            "layers": [layer.descriptor("layer.v1.tar")],
        }))?;
        let mut listed = manifest.descriptor("manifest.v1+json");
        let tag = self.reference.rsplit(':').next().unwrap_or_default();
        listed["annotations"] =
            json!({"io.containerd.image.name": self.reference, "org.opencontainers.image.ref.name": tag});
        listed["platform"] = json!({"architecture": architecture(), "os": "linux"});
        let index = json!({
            "schemaVersion": 2, "mediaType": format!("{MEDIA}index.v1+json"), "manifests": [listed],
        });
        // Put there whole, so that nobody imports half of it.
        let draft = archive.with_extension("draft");
        let file = File::create(&draft).with_context(|| format!("making {}", draft.display()))?;
        let mut tar = tar::Builder::new(file);
        append(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut tar, "index.json", 0o644, index.to_string().as_bytes())?;
        for blob in [&layer, &config, &manifest] {
            append(&mut tar, &format!("blobs/{}", blob.digest.replace(':', "/")), 0o644, &blob.bytes)?;
        }
        tar.into_inner().context("writing an image")?;
        fs::rename(&draft, archive).with_context(|| format!("putting {} in place", archive.display()))
    }

    fn put(&mut self, path: &str, content: Content) {
        self.files.insert(path.trim_start_matches('/').to_owned(), content);
    }

    fn config(&self, layer: &str) -> Value {
        json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "User": self.user.as_deref().unwrap_or_default(),
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Labels": self.labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        })
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content) in &self.files {
            match content {
                Content::Text(text) => append(&mut tar, path, 0o644, text.as_bytes())?,
                Content::File(source) => {
                    let bytes = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
                    let executable = fs::metadata(source)?.permissions().mode() & 0o111 != 0;
                    append(&mut tar, path, if executable { 0o755 } else { 0o644 }, &bytes)?;
                }
            }
        }
        tar.into_inner().context("writing a layer")
    }
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: format!("sha256:{}", hex::encode(Sha256::digest(&bytes))), bytes }
    }

    fn json(value: &Value) -> Result<Self> {
        Ok(Self::new(serde_json::to_vec(value)?))
    }

    fn descriptor(&self, kind: &str) -> Value {
        json!({"mediaType": format!("{MEDIA}{kind}"), "digest": self.digest, "size": self.bytes.len()})
    }
}

/// Adds a file of root's, as old as time.
fn append(tar: &mut tar::Builder<impl Write>, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len().try_into()?);
    tar.append_data(&mut header, path, bytes).with_context(|| format!("putting {path} into an archive"))
}

/// The shared libraries that a program needs, the loader among them, as this machine has them.
pub(crate) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("executing ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(missing) = text.lines().find(|line| line.ends_with("not found")) {
        anyhow::bail!("{} needs {}", program.display(), missing.trim());
    }
    Ok(paths(&text))
}

/// Paths in what `ldd` prints: `name => path (address)`, or `path (address)` for the loader itself.
fn paths(ldd: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let right = line.split_once("=>").map_or(line, |(_, right)| right);
        let word = right.split_ascii_whitespace().next()?;
        word.starts_with('/').then(|| PathBuf::from(word))
    };
    ldd.lines().filter_map(path).collect()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_of_a_program_are_found_and_those_without_a_file_left_out() {
        let ldd = "\
\tlinux-vdso.so.1 (0x00007ffd)
\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f)
";
        let found = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(paths(ldd), found);
    }

    #[test]
    fn tar_reads_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (source, archive) = (folder.path().join("hello"), folder.path().join("image.tar"));
        fs::write(&source, "hello").unwrap();
        let mut image = Image::new("ambit.local/hello:1", &["/hello"]);
        image.add(&source, "hello").unwrap();
        image.add_text("etc/hello.conf", "there");
        image.write(&archive).unwrap();
        let listed = Command::new("tar").arg("-tf").arg(&archive).output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.contains("index.json") && listed.lines().count() == 5, "{listed}");
        let first = fs::read(&archive).unwrap();
        image.write(&archive).unwrap();
        assert_eq!(first, fs::read(&archive).unwrap());
    }
}
