// SPDX-License-Identifier: Apache-2.0
//! Images for a cluster: archives in OCI layout with a single layer, written without a daemon. The same input gives the
//! same bytes.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// References of the images that every node has: the sandbox of pods, and the DNS server.
pub const OWN: [&str; 2] = ["ambit.local/pause:1", "ambit.local/coredns:1"];
const BLOCK: usize = 512;
const MEDIA: &str = "application/vnd.oci.image.";

/// An image that is being put together.
#[derive(Clone, Debug)]
pub struct Image {
    reference: String,
    entrypoint: Vec<String>,
    files: Vec<(PathBuf, String)>,
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
            files: Vec::new(),
        }
    }

    /// Adds a file under a path without a leading slash.
    ///
    /// # Errors
    /// When it is not there.
    pub fn add(&mut self, source: &Path, path: &str) -> Result<()> {
        ensure!(source.is_file(), "{} is no file", source.display());
        self.files.push((source.to_path_buf(), path.trim_start_matches('/').to_owned()));
        Ok(())
    }

    /// Adds a program with the shared libraries that it needs, as this machine has them.
    ///
    /// # Errors
    /// When a library is missing.
    pub fn add_program(&mut self, source: &Path, path: &str) -> Result<()> {
        self.add(source, path)?;
        let output = Command::new("ldd").arg(source).output().context("executing ldd")?;
        for library in libraries(&String::from_utf8_lossy(&output.stdout)) {
            self.add(Path::new(&library), &library)?;
        }
        Ok(())
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// When a file cannot be read or the archive cannot be written.
    pub fn write(&self, archive: &Path) -> Result<()> {
        let layer = Blob::new(self.layer()?);
        let config = Blob::json(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        }))?;
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
        let index = json!({"schemaVersion": 2, "manifests": [listed]}).to_string();
        // Put there whole, so that nobody imports half of it.
        let draft = archive.with_extension("draft");
        let file = File::create(&draft).with_context(|| format!("making {}", draft.display()))?;
        let mut tar = Tar { out: BufWriter::new(file) };
        tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.file("index.json", 0o644, index.as_bytes())?;
        for blob in [&layer, &config, &manifest] {
            tar.file(&format!("blobs/{}", blob.digest.replace(':', "/")), 0o644, &blob.bytes)?;
        }
        tar.end()?.flush().context("writing an image")?;
        fs::rename(&draft, archive).with_context(|| format!("putting {} in place", archive.display()))
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = Tar { out: Vec::new() };
        for (source, path) in &self.files {
            let bytes = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
            let executable = fs::metadata(source)?.permissions().mode() & 0o111 != 0;
            tar.file(path, if executable { 0o755 } else { 0o644 }, &bytes)?;
        }
        tar.end()
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

/// A tar archive (POSIX.1-1988 ustar): root's files, as old as time.
struct Tar<W> {
    out: W,
}

impl<W: Write> Tar<W> {
    fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.out.write_all(&header(path, mode, bytes.len())?)?;
        self.out.write_all(bytes)?;
        self.out.write_all(&vec![0; bytes.len().next_multiple_of(BLOCK) - bytes.len()])?;
        Ok(())
    }

    fn end(mut self) -> Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }
}

/// Name 0, mode 100, owner 108, group 116, size 124, time 136, sum 148, kind 156, magic 257.
fn header(path: &str, mode: u32, size: usize) -> Result<Vec<u8>> {
    ensure!(path.len() < 100, "{path} is too long a path for an image");
    let mut header = path.as_bytes().to_vec();
    header.resize(100, 0);
    header.extend(format!("{mode:07o}\0{:07o}\0{:07o}\0{size:011o}\0{:011o}\0", 0, 0, 0).bytes());
    // The sum counts itself as eight spaces.
    header.extend([b' '; 8]);
    header.push(b'0');
    header.resize(257, 0);
    header.extend(b"ustar\x0000");
    header.resize(BLOCK, 0);
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header.splice(148..156, format!("{sum:06o}\0 ").bytes());
    Ok(header)
}

/// Paths in what `ldd` prints: `name => path (address)`, or `path (address)` for the loader itself.
fn libraries(ldd: &str) -> Vec<String> {
    let path = |line: &str| {
        let right = line.split_once("=>").map_or(line, |(_, right)| right);
        let word = right.split_ascii_whitespace().next()?;
        word.starts_with('/').then(|| word.to_owned())
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
        assert_eq!(libraries(ldd), ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }

    #[test]
    fn tar_reads_what_is_written() {
        let folder = std::env::temp_dir().join(format!("image-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (source, archive) = (folder.join("hello"), folder.join("image.tar"));
        fs::write(&source, "hello").unwrap();
        let mut image = Image::new("ambit.local/hello:1", &["/hello"]);
        image.add(&source, "hello").unwrap();
        image.write(&archive).unwrap();
        let listed = Command::new("tar").arg("-tf").arg(&archive).output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.contains("index.json") && listed.lines().count() == 5, "{listed}");
        let first = fs::read(&archive).unwrap();
        image.write(&archive).unwrap();
        assert_eq!(first, fs::read(&archive).unwrap());
        fs::remove_dir_all(&folder).unwrap();
    }
}
