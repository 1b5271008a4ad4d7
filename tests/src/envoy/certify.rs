// SPDX-License-Identifier: Apache-2.0
//! A certificate for a pod, asked for as any client of `istio.v1.auth.IstioCertificateService` would: a key and a request
//! by openssl, one gRPC call by curl with the token of the pod's node, both messages written and read by hand.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{Cluster, Pod, config::run_folder, eventually};

/// How long control may take to read of a pod.
const SOON: Duration = Duration::from_secs(5);

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The key.
    pub key: PathBuf,
    /// The leaf, then intermediates.
    pub chain: PathBuf,
    /// Whom to believe.
    pub roots: PathBuf,
}

/// Has control certify the pod's identity; files are put into `folder`.
///
/// # Errors
/// When a program is missing, or control refuses for longer than it may take to read of the pod.
pub async fn certify(cluster: &Cluster, pod: &Pod, folder: &Path) -> Result<Certified> {
    let control = cluster.control();
    let token = run_folder(cluster.name()).join(&pod.object().node).join("token");
    let folder = folder.to_path_buf();
    let token = fs::read_to_string(&token).context("reading the node's token")?;
    let (identity, roots, address) = (pod.identity(), control.root_certificate(), control.address());
    // curl runs where control is, off the threads that everybody waits on.
    control
        .host()
        .namespace
        .run(async move || {
            let key = folder.join("key.pem");
            let csr = request(&key, &identity)?;
            let message = folder.join("request");
            fs::write(&message, frame(&signing_request(&csr, &identity))).context("writing the request")?;
            let url = format!("https://{address}/istio.v1.auth.IstioCertificateService/CreateCertificate");
            // It refuses until control has read of the pod; whoever asks asks again.
            let certificates = eventually(SOON, "a certificate", async || {
                let answer = ask(&url, &roots, token.trim(), &message)?;
                let message = answer.stdout.get(5..).map(strings);
                message.with_context(|| String::from_utf8_lossy(&answer.stderr).into_owned())
            })
            .await?;
            let (_roots, chain) = certificates.split_last().context("the CA sent no certificate")?;
            let file = folder.join("chain.pem");
            fs::write(&file, chain.concat()).context("writing the certificate")?;
            Ok(Certified { key, chain: file, roots })
        })
        .await
}

/// A key and a request with the identity as its only name.
fn request(key: &Path, identity: &str) -> Result<String> {
    let name = format!("subjectAltName=critical,URI:{identity}");
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    openssl.args(["-subj", "/", "-addext", &name, "-keyout"]).arg(key);
    let output = finished(&mut openssl, "apt-get install openssl")?;
    String::from_utf8(output.stdout).context("reading openssl's request")
}

/// The answer on its standard output, or nothing there and the reason of the refusal on the other.
fn ask(url: &str, roots: &Path, token: &str, message: &Path) -> Result<Output> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--http2", "--max-time", "10", "--cacert"]).arg(roots);
    curl.args(["--write-out", "%{stderr}%header{grpc-status} %header{grpc-message}"]);
    for header in ["content-type: application/grpc", "te: trailers", "clusterid: Kubernetes"] {
        curl.args(["--header", header]);
    }
    curl.args(["--header", &format!("authorization: Bearer {token}"), "--data-binary"]);
    curl.arg(format!("@{}", message.display())).arg(url);
    finished(&mut curl, "apt-get install curl")
}

fn finished(command: &mut Command, remedy: &str) -> Result<Output> {
    let output =
        command.output().with_context(|| format!("{command:?} cannot run; it is had by: {remedy}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

/// `IstioCertificateRequest`: csr 1, validity in seconds 3, metadata 4 (a `Struct`, in which a node names for whom).
fn signing_request(csr: &str, identity: &str) -> Vec<u8> {
    let value = field(3, identity.as_bytes());
    let entry = [field(1, b"ImpersonatedIdentity"), field(2, &value)].concat();
    let validity = [vec![3 << 3], varint(3600)].concat();
    [field(1, csr.as_bytes()), validity, field(4, &field(1, &entry))].concat()
}

/// A field with a length (wire type 2).
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(bytes.len()), bytes].concat()
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// A message as gRPC sends it: not compressed, with its length.
fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), message].concat()
}

/// The strings of `IstioCertificateResponse`: all are field 1.
fn strings(mut message: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    while let Some((&10, rest)) = message.split_first() {
        let (mut length, mut at) = (0, 0);
        for (index, byte) in rest.iter().enumerate().take(5) {
            length |= usize::from(byte & 0x7f) << (7 * index);
            at = index + 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let Some(text) = rest.get(at..at + length) else { break };
        found.push(String::from_utf8_lossy(text).into_owned());
        message = rest.get(at + length..).unwrap_or_default();
    }
    found
}
