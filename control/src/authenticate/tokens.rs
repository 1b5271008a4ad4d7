// SPDX-License-Identifier: Apache-2.0
//! Tokens from a YAML file, for standalone mode: a list of `{token, namespace, serviceAccount, node}`.
//!
//! Only digests are kept, so neither a log nor a dump of memory has a token, and how long a comparison takes says nothing
//! about one.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use arcstr::ArcStr;
use parking_lot::Mutex;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Authenticate, Caller, Unauthenticated};

/// The tokens of a file. The file is read again when it has changed; while it is broken, what it said before counts.
pub struct StaticTokens {
    path: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Of the file as it was read; `None`: there was none.
    stamp: Option<Stamp>,
    known: Vec<Known>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

struct Known {
    digest: [u8; 32],
    caller: Caller,
}

/// Why a file of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("cannot read tokens from {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It has another form. The text does not quote the file.
    #[error("{}:{line}: must be a list of {{token, namespace, serviceAccount, node}}", .path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Line of the first error.
        line: u64,
    },
    /// An entry cannot be used.
    #[error("{}: entry {entry}: {reason}", .path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// Which entry, from 1.
        entry: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    token: String,
    namespace: ArcStr,
    service_account: ArcStr,
    #[serde(default)]
    node: Option<ArcStr>,
}

impl StaticTokens {
    /// The tokens of a file; without one, none.
    ///
    /// # Errors
    /// When the file is there but cannot be used.
    pub fn open(path: Option<&Path>) -> Result<Self, TokensError> {
        let tokens = Self { path: path.map(Path::to_owned), state: Mutex::default() };
        tokens.reload(&mut tokens.state.lock())?;
        Ok(tokens)
    }

    /// The caller of a token. Every known token is looked at, whichever is the right one.
    fn find(&self, token: &str) -> Option<Caller> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut state = self.state.lock();
        if let Err(error) = self.reload(&mut state) {
            let cause = std::error::Error::source(&error).map(tracing::field::display);
            tracing::error!(%error, cause, "tokens were not read again, the earlier ones stay");
        }
        let mut found = None;
        for known in &state.known {
            let differences =
                known.digest.iter().zip(&digest).fold(0, |all, (ours, theirs)| all | (ours ^ theirs));
            if differences == 0 {
                found = Some(known.caller.clone());
            }
        }
        found
    }

    /// Reads the file if it is another than before. A broken one is not tried again until it changes.
    fn reload(&self, state: &mut State) -> Result<(), TokensError> {
        let Some(path) = &self.path else { return Ok(()) };
        let unreadable = |source| TokensError::Read { path: path.clone(), source };
        let stamp = stamp(path).map_err(unreadable)?;
        if state.stamp == Some(stamp) {
            return Ok(());
        }
        state.stamp = Some(stamp);
        state.known = parse(path, &fs::read_to_string(path).map_err(unreadable)?)?;
        tracing::info!(file = %path.display(), tokens = state.known.len(), "tokens read");
        Ok(())
    }
}

impl Authenticate for StaticTokens {
    async fn authenticate(&self, token: &str) -> Result<Caller, Unauthenticated> {
        self.find(token).ok_or(Unauthenticated::UnknownToken)
    }

    /// The file can always be asked.
    fn recall(&self, _: &str) -> Option<Caller> {
        None
    }
}

impl fmt::Debug for StaticTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticTokens").field("path", &self.path).finish_non_exhaustive()
    }
}

fn parse(path: &Path, text: &str) -> Result<Vec<Known>, TokensError> {
    let entries: Option<Vec<Entry>> = serde_saphyr::from_str(text).map_err(|error| TokensError::Form {
        path: path.to_owned(),
        line: error.location().map_or(0, |location| location.line()),
    })?;
    let mut known: Vec<Known> = Vec::new();
    for (index, entry) in entries.unwrap_or_default().into_iter().enumerate() {
        let reject = |reason| TokensError::Entry { path: path.to_owned(), entry: index + 1, reason };
        if entry.token.is_empty() || entry.token.contains(char::is_whitespace) {
            return Err(reject("its token is empty or has spaces"));
        }
        if entry.namespace.is_empty() || entry.service_account.is_empty() {
            return Err(reject("its namespace or serviceAccount is empty"));
        }
        let digest: [u8; 32] = Sha256::digest(&entry.token).into();
        if known.iter().any(|other| other.digest == digest) {
            return Err(reject("its token is in the list already"));
        }
        let (namespace, service_account) = (entry.namespace, entry.service_account);
        let node = entry.node.filter(|node| !node.is_empty());
        known.push(Known { digest, caller: Caller { namespace, service_account, node } });
    }
    Ok(known)
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    Ok(Stamp {
        inode: metadata.ino(),
        size: metadata.size(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tokens: &StaticTokens, token: &str) -> Option<String> {
        tokens.find(token).map(|caller| caller.to_string())
    }

    #[test]
    fn a_token_names_its_caller_and_a_changed_file_counts_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.yaml");
        fs::write(&path, "- {token: one, namespace: istio-system, serviceAccount: ztunnel, node: node-1}\n")
            .unwrap();
        let tokens = StaticTokens::open(Some(&path)).unwrap();
        assert_eq!(found(&tokens, "one").as_deref(), Some("istio-system/ztunnel on node-1"));
        assert_eq!(found(&tokens, "two"), None);
        assert_eq!(found(&tokens, ""), None);

        fs::write(&path, "- {token: two, namespace: shop, serviceAccount: cart}\n").unwrap();
        assert_eq!(found(&tokens, "one"), None, "a token that was taken out is out");
        assert_eq!(found(&tokens, "two").as_deref(), Some("shop/cart"));

        for broken in ["- {token: three", "- {token: three, namespace: shop, serviceAccount: cart, nod: a}\n"]
        {
            fs::write(&path, broken).unwrap();
            assert_eq!(found(&tokens, "two").as_deref(), Some("shop/cart"), "a broken file changes nothing");
            assert_eq!(found(&tokens, "three"), None);
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(
            found(&tokens, "two").as_deref(),
            Some("shop/cart"),
            "nor does one that is away for a moment"
        );
    }

    #[test]
    fn errors_say_where_and_never_what_the_token_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.yaml");
        for (text, expected) in [
            (
                "- {token: hush, namespace: a, serviceAccount: b}\n- {token: hush, namespace: c, serviceAccount: d}\n",
                "entry 2: its token is in the list already",
            ),
            (
                "- {token: \"hush hush\", namespace: a, serviceAccount: b}\n",
                "entry 1: its token is empty or has spaces",
            ),
            ("- {token: hush, namespace: a}\n", ":1: must be a list"),
            ("hush\n", ":1: must be a list"),
        ] {
            fs::write(&path, text).unwrap();
            let error = StaticTokens::open(Some(&path)).unwrap_err();
            let told = format!("{error} {error:?}");
            assert!(told.contains(expected), "{told}");
            assert!(!told.contains("hush"), "{told}");
        }
        assert!(StaticTokens::open(None).unwrap().find("x").is_none());
    }
}
