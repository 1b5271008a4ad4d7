// SPDX-License-Identifier: Apache-2.0
//! Network namespaces on one bridge, made for a test and removed after it, also when it fails. What a killed run left is
//! removed by the next.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use ebpf_loader::{Capture, PodNetns, Rules, Settings, abi::route};
use nix::sched::{CloneFlags, setns};

use crate::proxy::Proxy;

static WORLDS: AtomicU32 = AtomicU32::new(0);
const PREFIX: &str = "ebpf-";

/// Namespaces, and a folder for pins, of one test.
pub(crate) struct World {
    name: String,
    bpf_dir: PathBuf,
    spaces: Vec<String>,
}

/// One network namespace.
#[derive(Clone)]
pub(crate) struct Space {
    pub(crate) name: String,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
}

impl World {
    /// An empty world with a bridge.
    pub(crate) fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "needs root: sudo -E env PATH=$PATH cargo test -p ebpf-loader --features root-tests --test capture"
        );
        sweep();
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let bpf_dir = PathBuf::from("/sys/fs/bpf").join(&name);
        let mut world = Self { name, bpf_dir, spaces: Vec::new() };
        let fabric = world.make("f");
        ip(&format!("-n {fabric} link add br0 type bridge"));
        ip(&format!("-n {fabric} link set br0 up"));
        world
    }

    /// A namespace on the bridge: 10.78.0.`number` and fd78::`number`, applications on port 8080.
    pub(crate) fn space(&mut self, number: u8) -> Space {
        let name = self.make(&format!("s{number}"));
        let fabric = self.fabric().name;
        let peer = format!("p{number}");
        ip(&format!("-n {name} link add eth0 type veth peer name {peer} netns {fabric}"));
        ip(&format!("-n {fabric} link set {peer} master br0 up"));
        ip(&format!("-n {name} addr add 10.78.0.{number}/24 dev eth0"));
        ip(&format!("-n {name} addr add fd78::{number:x}/64 dev eth0 nodad"));
        ip(&format!("-n {name} link set eth0 up"));
        let v4 = format!("10.78.0.{number}").parse().unwrap();
        let v6 = format!("fd78::{number:x}").parse().unwrap();
        Space { name, v4, v6 }
    }

    /// Many namespaces, each with an interface and nobody on its other end, prepared as pods.
    pub(crate) fn crowd(&mut self, count: u32) -> Vec<Space> {
        let none = |number: u32| IpAddr::from([10, 79, (number / 256) as u8, (number % 256) as u8]);
        let fabric = self.fabric().name;
        let each = |number: u32| {
            let name = self.make(&format!("c{number}"));
            ip(&format!("-n {name} link add eth0 type veth peer name c{number} netns {fabric}"));
            Space { name, v4: none(number), v6: "fd79::1".parse().unwrap() }
        };
        (0..count).map(each).collect()
    }

    /// The namespace of the bridge: everything that is on the wire passes here.
    pub(crate) fn fabric(&self) -> Space {
        let none = IpAddr::from([0, 0, 0, 0]);
        Space { name: format!("{}-f", self.name), v4: none, v6: none }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings::embedded(self.bpf_dir.clone())
    }

    pub(crate) fn load(&self) -> Capture {
        Capture::load(self.settings()).unwrap()
    }

    fn make(&mut self, short: &str) -> String {
        let name = format!("{}-{short}", self.name);
        ip(&format!("netns add {name}"));
        self.spaces.push(name.clone());
        ip(&format!("-n {name} link set lo up"));
        name
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in &self.spaces {
            let _removed = Command::new("ip").args(["netns", "del", name]).status();
        }
        let _removed = fs::remove_dir_all(&self.bpf_dir);
    }
}

impl Space {
    /// Runs `work` inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = self.open();
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    pub(crate) fn open(&self) -> OwnedFd {
        fs::File::open(self.path()).unwrap().into()
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Both addresses with a port.
    pub(crate) fn at(&self, port: u16) -> [SocketAddr; 2] {
        [SocketAddr::new(self.v4, port), SocketAddr::new(self.v6, port)]
    }

    /// What the node agent does before it attaches.
    pub(crate) fn prepare(&self) {
        for family in ["", "-6"] {
            let (preference, table) = (route::RULE_PREFERENCE, route::TABLE);
            let name = &self.name;
            ip(&format!("-n {name} {family} rule add pref {preference} fwmark 0x111/0xfff lookup {table}"));
            ip(&format!("-n {name} {family} route add local default dev lo table {table}"));
        }
        self.run(|| {
            for (setting, value) in route::SYSCTLS {
                fs::write(PathBuf::from("/proc/sys").join(setting), value).unwrap();
            }
            // The strictest that a machine may have.
            fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1").unwrap();
        });
    }

    /// This namespace as a pod; its uid is the namespace's name.
    pub(crate) fn pod(&self) -> PodNetns {
        PodNetns { netns: self.open(), uid: self.name.clone(), rules: self.rules() }
    }

    pub(crate) fn rules(&self) -> Rules {
        Rules { ips: vec![self.v4, self.v6], dns: true, ..Rules::default() }
    }

    /// Makes a pod of it, captured by `capture`.
    pub(crate) fn enrol(&self, capture: &Capture) {
        self.prepare();
        capture.attach(&self.pod()).unwrap();
    }

    /// Waits until links have taken the place of filters, as they do soon after.
    pub(crate) fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.filters().is_empty() {
            assert!(Instant::now() < deadline, "{}", self.filters());
            thread::yield_now();
        }
    }

    /// What `tc` shows of the filters on its interfaces.
    pub(crate) fn filters(&self) -> String {
        let shown = ["eth0", "lo"].map(|device| {
            ["ingress", "egress"].map(|way| {
                let arguments = ["-n", &self.name, "filter", "show", "dev", device, way];
                String::from_utf8(Command::new("tc").args(arguments).output().unwrap().stdout).unwrap()
            })
        });
        shown.concat().concat()
    }

    /// A proxy for it that claims its sockets.
    pub(crate) fn proxy(&self, capture: &Capture) -> Proxy {
        Proxy::start(self, Some(capture.claim_map_path()), "")
    }
}

/// Runs `ip`.
pub(crate) fn ip(line: &str) {
    let status = Command::new("ip").args(line.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {line}");
}

/// Removes what a killed run left behind.
fn sweep() {
    let entries =
        |path: &str| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let stale = |name: &str| {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        pid.and_then(|pid| pid.parse::<u32>().ok())
            .is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists())
    };
    for name in entries("/run/netns").filter_map(|name| name.into_string().ok()).filter(|name| stale(name)) {
        let _removed = Command::new("ip").args(["netns", "del", &name]).status();
    }
    for name in entries("/sys/fs/bpf").filter_map(|name| name.into_string().ok()).filter(|name| stale(name)) {
        let _removed = fs::remove_dir_all(PathBuf::from("/sys/fs/bpf").join(name));
    }
}
