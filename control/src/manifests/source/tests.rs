// SPDX-License-Identifier: Apache-2.0
//! From a real folder to the World, over restarts.

use std::{fs, path::Path, time::Duration};

use super::*;
use crate::{objects::Kind, testing::settings};

const GOOD: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: shop}
spec: {rules: [{from: [{source: {namespaces: [shop]}}]}]}
";
const BROKEN: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: shop}
spec: {rules: [{form: []}]}
";

struct Process {
    source: Source,
    live: Arc<Live>,
    view: FolderView,
}

fn start(folder: &Path) -> Process {
    let live = Arc::new(Live::new(settings()));
    let view = FolderView::default();
    let settings = FolderSettings { manifests: folder.join("manifests"), keep: folder.join("keep") };
    Process { source: Source::new(&settings, Arc::clone(&live), view.clone()), live, view }
}

impl Process {
    /// Looks as if everything had been written long ago.
    fn look(&mut self, later: u64) {
        assert!(!self.source.look(SystemTime::now() + Duration::from_secs(3600 + later)));
    }

    fn policies(&self) -> usize {
        self.live.read(|world| world.objects().count(Kind::AuthorizationPolicy))
    }

    fn problems(&self) -> Vec<(String, u64, String)> {
        let files = self.view.status().files.into_iter();
        files
            .flat_map(|file| {
                let name = file.file.to_string();
                file.problems.into_iter().map(move |problem| (name.clone(), problem.line, problem.field))
            })
            .collect()
    }
}

#[test]
fn a_policy_survives_its_broken_file_also_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("manifests/shop")).unwrap();
    let file = folder.path().join("manifests/shop/guard.yaml");
    fs::write(&file, GOOD).unwrap();
    let mut process = start(folder.path());
    process.look(0);
    assert_eq!(process.policies(), 1);

    fs::write(&file, BROKEN).unwrap();
    process.look(1);
    let broken = [("shop/guard.yaml".to_owned(), 5, "spec.rules[0].form".to_owned())];
    assert_eq!((process.policies(), process.problems().as_slice()), (1, &broken[..]));

    let mut restarted = start(folder.path());
    restarted.look(0);
    assert_eq!((restarted.policies(), restarted.problems().as_slice()), (1, &broken[..]));

    fs::remove_file(&file).unwrap();
    assert!(restarted.source.look(SystemTime::now()), "it may come back in a moment");
    restarted.look(2);
    assert_eq!((restarted.policies(), restarted.problems().len()), (0, 0));
    fs::write(&file, BROKEN).unwrap();
    let mut restarted = start(folder.path());
    restarted.look(0);
    assert_eq!(restarted.policies(), 0, "what was deleted does not come back");

    fs::write(&file, GOOD).unwrap();
    restarted.look(3);
    assert_eq!(restarted.policies(), 1);
    fs::remove_file(&file).unwrap();
    let mut restarted = start(folder.path());
    restarted.look(0);
    assert!(restarted.source.complete());
    fs::write(&file, BROKEN).unwrap();
    restarted.look(1);
    assert_eq!(restarted.policies(), 0, "nor what was deleted while nobody looked");
}

#[test]
fn nothing_is_told_before_the_folder_could_be_listed() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = start(folder.path());
    process.look(0);
    assert!(!process.source.complete());
    assert_eq!(process.view.status().failures.len(), 1);
    fs::create_dir_all(folder.path().join("manifests")).unwrap();
    process.look(1);
    assert!(process.source.complete());
    assert_eq!(process.view.status().failures.len(), 0);
}
