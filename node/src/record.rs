// SPDX-License-Identifier: Apache-2.0
//! What outlives the agent: one JSON file per pod, written before the pod is touched and removed after the last trace
//! of capture is gone. So whatever an agent leaves behind, the next one can finish or undo. Nobody waits for the disk:
//! what a record is about, a namespace, its rules and pins in a bpffs, ends with the machine, and so may the record.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    netns::NetnsId,
    pod::{Pod, PodError, PodJson, Uid},
    routes::Families,
    sysctl::Previous,
};

const SUFFIX: &str = ".json";
const LOCK: &str = ".lock";

/// One pod, as it was when the agent first touched it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who.
    pub pod: Pod,
    /// Which namespace its file named.
    pub netns: NetnsId,
    /// Which families were routed.
    pub families: Families,
    /// The kernel settings before.
    pub sysctls: Previous,
    /// What the next agent should do with it.
    pub intent: Intent,
}

/// Where a pod is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// It is enrolled, or about to be.
    Stay,
    /// Its release has begun.
    Leave,
}

/// The folder of all records, held by one process at a time.
#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
    _lock: File,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be made or read.
    #[error("cannot use the state folder {}", folder.display())]
    Unusable {
        /// Which.
        folder: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Another agent works here.
    #[error("another node-agent holds the state folder {}: stop it first", folder.display())]
    Held {
        /// Which.
        folder: PathBuf,
    },
}

/// Why one record cannot be read, written or removed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system failed.
    #[error("cannot {verb} the record {}", path.display())]
    File {
        /// `read`, `write` or `remove`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Not JSON of a record.
    #[error("the record {} is damaged", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where it stops making sense.
        #[source]
        source: serde_json::Error,
    },
    /// JSON of a record, but not of a pod.
    #[error("the record {} names no pod", path.display())]
    Pod {
        /// The file.
        path: PathBuf,
        /// The field.
        #[source]
        source: PodError,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordJson {
    pod: PodJson,
    netns: NetnsId,
    families: Families,
    sysctls: Previous,
    intent: Intent,
}

impl Records {
    /// Opens the folder, making it where needed, and holds it for the life of the value.
    ///
    /// # Errors
    /// When it cannot be used or another process holds it.
    pub fn open(folder: &Path) -> Result<Self, FolderError> {
        let unusable = |source| FolderError::Unusable { folder: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(unusable)?;
        let path = folder.join(LOCK);
        let lock = File::create(&path).map_err(unusable)?;
        match lock.try_lock() {
            // Who held it may have left the node, and the folder with it.
            Ok(()) if !is_at(&lock, &path) => Err(FolderError::Held { folder: folder.to_owned() }),
            Ok(()) => Ok(Self { folder: folder.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(FolderError::Held { folder: folder.to_owned() }),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }

    /// Removes a folder that has no records left, for whoever holds it.
    ///
    /// # Errors
    /// When something stays.
    pub fn remove(folder: &Path) -> io::Result<()> {
        gone(fs::remove_file(folder.join(LOCK)))?;
        gone(fs::remove_dir(folder))
    }

    /// All records; a damaged one does not hide the others.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn load(&self) -> Result<Vec<Result<Record, RecordError>>, FolderError> {
        let unusable = |source| FolderError::Unusable { folder: self.folder.clone(), source };
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(unusable)? {
            let path = entry.map_err(unusable)?.path();
            if !path.to_string_lossy().ends_with(SUFFIX) {
                continue;
            }
            if fs::metadata(&path).is_ok_and(|file| file.len() == 0) {
                // Its bytes were not on disk when the machine went down, and its pod went down with it.
                fs::remove_file(&path).map_err(unusable)?;
                continue;
            }
            records.push(read(&path));
        }
        Ok(records)
    }

    /// Writes or replaces a record: whoever reads it sees all of it, or all of the old one.
    ///
    /// # Errors
    /// When the folder is full or read-only.
    pub fn save(&self, record: &Record) -> Result<(), RecordError> {
        let path = self.path(&record.pod.uid);
        let json = RecordJson {
            pod: PodJson::from(&record.pod),
            netns: record.netns,
            families: record.families,
            sysctls: record.sysctls.clone(),
            intent: record.intent,
        };
        let written = serde_json::to_vec(&json).map_err(io::Error::from).and_then(|bytes| {
            let draft = path.with_added_extension("new");
            fs::write(&draft, bytes)?;
            fs::rename(&draft, &path)
        });
        written.map_err(|source| RecordError::File { verb: "write", path, source })
    }

    /// Removes a record; one that is not there is removed already.
    ///
    /// # Errors
    /// When the file stays.
    pub fn forget(&self, uid: &Uid) -> Result<(), RecordError> {
        let path = self.path(uid);
        gone(fs::remove_file(&path)).map_err(|source| RecordError::File { verb: "remove", path, source })
    }

    fn path(&self, uid: &Uid) -> PathBuf {
        self.folder.join(format!("{uid}{SUFFIX}"))
    }
}

/// What is not there is removed already.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let (held, there) = (file.metadata().map(place), fs::metadata(path).map(place));
    matches!((held, there), (Ok(held), Ok(there)) if held == there)
}

fn read(path: &Path) -> Result<Record, RecordError> {
    let path = || path.to_owned();
    let bytes =
        fs::read(path()).map_err(|source| RecordError::File { verb: "read", path: path(), source })?;
    let json: RecordJson =
        serde_json::from_slice(&bytes).map_err(|source| RecordError::Syntax { path: path(), source })?;
    let pod = Pod::try_from(&json.pod).map_err(|source| RecordError::Pod { path: path(), source })?;
    Ok(Record { pod, netns: json.netns, families: json.families, sysctls: json.sysctls, intent: json.intent })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Treatment;

    fn record(uid: &str) -> Record {
        Record {
            pod: Pod {
                uid: Uid::parse(uid).unwrap(),
                name: "client".to_owned(),
                namespace: "default".to_owned(),
                service_account: "sleep".to_owned(),
                netns: PathBuf::from("/run/netns/client"),
                ips: vec!["10.20.1.2".parse().unwrap()],
                treatment: Treatment::default(),
                sandbox: None,
            },
            netns: NetnsId { device: 4, inode: 4_026_532_001 },
            families: Families::Dual,
            sysctls: Previous::from([("net/ipv4/tcp_fwmark_accept".to_owned(), "0".to_owned())]),
            intent: Intent::Stay,
        }
    }

    fn uids(records: &Records) -> Vec<String> {
        let mut uids: Vec<_> =
            records.load().unwrap().into_iter().flatten().map(|record| record.pod.uid.to_string()).collect();
        uids.sort();
        uids
    }

    #[test]
    fn a_record_outlives_the_agent_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        records.save(&record("a")).unwrap();
        records.save(&record("b.json")).unwrap();
        drop(records);
        let records = Records::open(folder.path()).unwrap();
        assert_eq!(uids(&records), ["a", "b.json"]);
        assert!(records.load().unwrap().into_iter().flatten().any(|loaded| loaded == record("a")));
        records.forget(&Uid::parse("a").unwrap()).unwrap();
        records.forget(&Uid::parse("a").unwrap()).unwrap();
        assert_eq!(uids(&records), ["b.json"]);
    }

    #[test]
    fn a_second_agent_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Records::open(folder.path()).unwrap();
        assert!(matches!(Records::open(folder.path()), Err(FolderError::Held { .. })));
    }

    #[test]
    fn a_folder_without_records_is_left_behind_by_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("pods");
        let records = Records::open(&state).unwrap();
        records.save(&record("a")).unwrap();
        assert!(Records::remove(&state).is_err(), "what is damaged is not thrown away");
        records.forget(&Uid::parse("a").unwrap()).unwrap();
        Records::remove(&state).unwrap();
        assert!(!state.exists());
        Records::remove(&state).unwrap();
    }

    #[test]
    fn a_damaged_record_is_named_and_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        records.save(&record("a")).unwrap();
        fs::write(folder.path().join("b.json"), "{").unwrap();
        fs::write(folder.path().join("c.json.new"), "half a draft").unwrap();
        fs::write(folder.path().join("d.json"), "").unwrap();
        let (good, bad): (Vec<_>, Vec<_>) = records.load().unwrap().into_iter().partition(Result::is_ok);
        assert_eq!((good.len(), bad.len()), (1, 1));
        let Some(Err(error)) = bad.into_iter().next() else { panic!("one is damaged") };
        assert!(error.to_string().contains("b.json"), "{error}");
        assert!(!folder.path().join("d.json").exists(), "what was lost with the machine is no record");
    }
}
