// SPDX-License-Identifier: Apache-2.0
//! `ambit bug-report`: one archive with what is needed to understand a fault, and nothing that must stay secret. What
//! cannot be had is named in it.

mod collect;
mod redact;

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use serde_json::json;

use crate::{
    VERSION,
    arguments::To,
    exit::Outcome,
    gather,
    output::{count, show},
    reach, say,
};

use self::collect::Collection;

/// `ambit bug-report`.
#[derive(Debug, Args)]
pub(crate) struct ReportCommand {
    /// The archive; else ambit-report-<time>.tar.gz in this folder
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only the node parts of these nodes; may be given several times
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    /// Node parts of no more nodes than this; those in trouble come first
    #[arg(long, default_value_t = 20, value_name = "NUMBER")]
    max_nodes: usize,
    /// No more pods of waypoints than this
    #[arg(long, default_value_t = 20, value_name = "NUMBER")]
    max_waypoints: usize,
    /// The end of each log, in lines
    #[arg(long, default_value_t = 5000, value_name = "NUMBER")]
    log_lines: u32,
}

impl ReportCommand {
    pub(crate) async fn run(&self, to: &To) -> anyhow::Result<Outcome> {
        let (api, now) = (reach::open(to).await?, Timestamp::now());
        let facts = gather::everything(&api, to.home()).await?;
        let stamp = now.strftime("%Y%m%d-%H%M%S").to_string();
        let file = self.file.clone().unwrap_or_else(|| format!("ambit-report-{stamp}.tar.gz").into());
        let mut collection = Collection::new(&api, &facts, self.log_lines);
        collection.said(&crate::check::report(&facts, now), &crate::status::report(&facts, now));
        collection.objects().await;
        collection.pods(&collection.chosen(&self.nodes, self.max_nodes)).await;
        collection.waypoints(self.max_waypoints).await;
        let (mut files, missing) = collection.done();
        let about = json!({
            "time": now.to_string(), "client": VERSION, "server": facts.server, "namespace": to.home(), "missing": missing,
        });
        files.push(("report.json".to_owned(), format!("{about:#}\n")));
        say::progress(&format!("writing {} ...", count(files.len(), "file")));
        write(&file, &format!("ambit-report-{stamp}"), &files, now)?;
        let answer = json!({"file": file, "files": files.len(), "missing": missing});
        show(to.output, &answer, |_| text(&file, files.len(), &missing))?;
        Ok(Outcome::Well)
    }
}

fn text(file: &Path, files: usize, missing: &[String]) -> String {
    let mut text = format!("{}: {}\n", file.display(), count(files, "file"));
    for missing in missing {
        text.push_str(&format!("  without {missing}\n"));
    }
    text + "It has names, addresses, labels and policies of the cluster: look through it before you pass it on.\n"
}

/// The archive, everything in one folder.
fn write(file: &Path, folder: &str, files: &[(String, String)], now: Timestamp) -> anyhow::Result<()> {
    let shown = || format!("cannot write {}", file.display());
    let encoder = GzEncoder::new(File::create(file).with_context(shown)?, Compression::default());
    let mut archive = tar::Builder::new(encoder);
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len().try_into().with_context(shown)?);
        header.set_mode(0o600);
        header.set_mtime(now.as_second().try_into().unwrap_or_default());
        archive
            .append_data(&mut header, format!("{folder}/{path}"), content.as_bytes())
            .with_context(shown)?;
    }
    let encoder = archive.into_inner().with_context(shown)?;
    encoder.finish().and_then(|mut file| file.flush()).with_context(shown)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_is_written_can_be_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.tar.gz");
        let content = "ä".repeat(10_000);
        write(&file, "x", &[("a/b.txt".to_owned(), content.clone())], Timestamp::now()).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(File::open(&file).unwrap()));
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("x/a/b.txt"));
        let mut read = String::new();
        entry.read_to_string(&mut read).unwrap();
        assert_eq!(read, content);
    }
}
