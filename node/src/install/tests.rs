// SPDX-License-Identifier: Apache-2.0
//! With real folders and a real watch.

use runtime::Tasks;
use tempfile::TempDir;

use super::*;

const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}"#;
const PATIENCE: Duration = Duration::from_secs(30);

fn node() -> (TempDir, Installation) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let settings = PluginSettings { socket: "/run/x".to_owned(), pass_without_agent: vec![] };
    let installation =
        Installation { configurations: path("net.d"), plugins: path("bin"), source: path("cni"), settings };
    fs::create_dir(&installation.configurations).unwrap();
    fs::write(&installation.source, "the plugin").unwrap();
    fs::write(installation.configurations.join("10-bridge.conflist"), LIST).unwrap();
    (folder, installation)
}

fn own(installation: &Installation) -> PathBuf {
    installation.configurations.join("00-ambit.conflist")
}

#[test]
fn the_folders_get_what_they_need_once_and_lose_exactly_that() {
    let (_folder, installation) = node();
    let done = installation.install().unwrap();
    let plugin = installation.plugins.join(PLUGIN);
    assert_eq!(done.changed, [plugin.clone(), own(&installation)]);
    assert_eq!(done.primary.as_deref(), Some("10-bridge.conflist"));
    assert_eq!(fs::metadata(&plugin).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::metadata(own(&installation)).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(installation.install().unwrap().changed, [] as [PathBuf; 0]);
    fs::set_permissions(&plugin, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(installation.install().unwrap().changed, std::slice::from_ref(&plugin));
    installation.uninstall().unwrap();
    installation.uninstall().unwrap();
    let left: Vec<_> = fs::read_dir(&installation.configurations).unwrap().flatten().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(fs::read_to_string(left[0].path()).unwrap(), LIST);
    assert!(!plugin.exists());
}

#[test]
fn what_cannot_be_read_or_written_is_named() {
    let (_folder, installation) = node();
    let nothing = Installation { source: "/there/is/nothing".into(), ..installation.clone() };
    assert_eq!(nothing.install().unwrap_err().to_string(), "cannot read /there/is/nothing");
    let file = Installation { plugins: installation.source.clone(), ..installation };
    assert!(file.install().unwrap_err().to_string().starts_with("cannot make"));
}

#[tokio::test]
async fn whoever_changes_our_files_finds_them_repaired_and_a_new_primary_is_followed() {
    let (_folder, installation) = node();
    let tasks = Tasks::new();
    let (ready, mut state) = watch::channel(false);
    drop(tasks.spawn("keep", installation.clone().keep(ready, tasks.shutdown())));
    tokio::time::timeout(PATIENCE, state.wait_for(|ready| *ready)).await.unwrap().unwrap();
    let text = fs::read(own(&installation)).unwrap();

    fs::write(own(&installation), "{}").unwrap();
    until(|| fs::read(own(&installation)).is_ok_and(|found| found == text)).await;
    fs::remove_file(own(&installation)).unwrap();
    fs::remove_file(installation.plugins.join(PLUGIN)).unwrap();
    until(|| own(&installation).exists() && installation.plugins.join(PLUGIN).exists()).await;

    let other = LIST.replace("bridge", "ptp");
    fs::write(installation.configurations.join("05-ptp.conflist"), other).unwrap();
    until(|| fs::read_to_string(own(&installation)).is_ok_and(|text| text.contains("ptp"))).await;
    for name in ["05-ptp.conflist", "10-bridge.conflist"] {
        fs::remove_file(installation.configurations.join(name)).unwrap();
    }
    tokio::time::timeout(PATIENCE, state.wait_for(|ready| !*ready)).await.unwrap().unwrap();
    assert!(own(&installation).exists(), "no pod starts past us while the primary is away");
    tasks.drain(PATIENCE).await;
}

async fn until(condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "in vain");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
