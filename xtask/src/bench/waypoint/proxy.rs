// SPDX-License-Identifier: Apache-2.0
//! A proxy that is measured: how it is started, started again, told new rules while it runs, and which processes it is.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{Pod, cluster::Waypoint, envoy::HBONE, process::Process};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use serde_json::Value;

use super::{
    super::{cost, web},
    envoy,
    objects::Objects,
    rules::Rules,
    text,
};

/// Where others listen for plain connections.
pub(super) const PORT: u16 = 8000;
/// Threads or processes of each proxy: what a waypoint takes by default where there are two cores or more.
pub(super) const THREADS: u32 = 2;
const ROUTES: &str = "routes.json";

/// Programs that are not ours.
#[derive(Clone, Debug)]
pub(super) enum Program {
    /// nginx. A process of its own starts it with a namespace of process numbers, so that its workers end with it.
    Nginx(PathBuf),
    /// HAProxy, and the folder of libraries that this machine may lack.
    Haproxy(PathBuf, PathBuf),
    /// Envoy.
    Envoy(PathBuf),
}

/// A proxy between plain connections that is not ours.
pub(super) struct Other {
    program: Program,
    pod: Pod,
    server: SocketAddr,
    folder: PathBuf,
    process: Mutex<Arc<Process>>,
}

impl Other {
    /// Starts it in a pod, in front of `server`; its files are put into `folder`.
    pub(super) async fn start(
        program: Program,
        pod: Pod,
        server: SocketAddr,
        folder: PathBuf,
    ) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        write(&program, &Rules::ONE, server, &folder)?;
        let process = begin(&program, &pod, &folder, &[])?;
        let process = web::listening(&pod, process, PORT).await?;
        Ok(Self { program, pod, server, folder, process: Mutex::new(process) })
    }

    /// Starts it again, with these rules from its beginning.
    async fn again(&self, rules: &Rules) -> Result<()> {
        let process = Arc::clone(&self.process.lock());
        process.kill()?;
        write(&self.program, rules, self.server, &self.folder)?;
        let process = begin(&self.program, &self.pod, &self.folder, &[])?;
        *self.process.lock() = web::listening(&self.pod, process, PORT).await?;
        Ok(())
    }

    /// Tells it new rules in the way that is its own for that.
    fn tell(&self, rules: &Rules) -> Result<()> {
        write(&self.program, rules, self.server, &self.folder)?;
        match &self.program {
            Program::Nginx(_) => {
                let pids = self.pids()?;
                let master = pids.first().context("nginx has ended")?;
                let master = Pid::from_raw(i32::try_from(*master)?);
                kill(master, Signal::SIGHUP).context("telling nginx to read its settings")
            }
            Program::Haproxy(..) => {
                let old = self.pid()?.to_string();
                *self.process.lock() = begin(&self.program, &self.pod, &self.folder, &["-sf", &old])?;
                Ok(())
            }
            // It watches the file.
            Program::Envoy(_) => Ok(()),
        }
    }

    fn pid(&self) -> Result<u32> {
        let process = self.process.lock();
        process.pid().with_context(|| format!("{} has ended", process.name()))
    }

    fn pids(&self) -> Result<Vec<u32>> {
        let pid = self.pid()?;
        match self.program {
            Program::Nginx(_) => cost::descendants(pid),
            Program::Haproxy(..) | Program::Envoy(_) => Ok(vec![pid]),
        }
    }
}

/// Starts an Envoy in the place of a waypoint.
pub(super) async fn fixed(pod: &Pod, envoy: &Path, folder: &Path, settings: &Value) -> Result<Arc<Process>> {
    fs::write(folder.join("envoy.json"), settings.to_string()).context("writing Envoy's settings")?;
    let process = begin(&Program::Envoy(envoy.to_path_buf()), pod, folder, &[])?;
    web::listening(pod, process, HBONE).await
}

fn begin(program: &Program, pod: &Pod, folder: &Path, more: &[&str]) -> Result<Arc<Process>> {
    let inside = |file: &str| folder.join(file).display().to_string();
    let (label, words): (_, Vec<String>) = match program {
        Program::Nginx(nginx) => {
            let words = ["unshare", "--pid", "--fork", "--kill-child", &nginx.display().to_string()];
            let settings = ["-p", &inside(""), "-e", "stderr", "-c", "nginx.conf"];
            ("nginx", [words.as_slice(), &settings].concat().into_iter().map(str::to_owned).collect())
        }
        Program::Haproxy(haproxy, libraries) => {
            let libraries = format!("LD_LIBRARY_PATH={}", libraries.display());
            let [settings, ..] = text::HAPROXY;
            let words = ["env".to_owned(), libraries, haproxy.display().to_string()];
            let settings = ["-db".to_owned(), "-f".to_owned(), inside(settings)];
            ("haproxy", words.into_iter().chain(settings).collect())
        }
        Program::Envoy(envoy) => {
            let words = [envoy.display().to_string(), "-c".to_owned(), inside("envoy.json")];
            let rest = ["--disable-hot-restart", "--log-level", "warning", "--concurrency"];
            let rest = rest.map(str::to_owned).into_iter().chain([THREADS.to_string()]);
            ("envoy", words.into_iter().chain(rest).collect())
        }
    };
    let mut words = words.iter().map(String::as_str);
    let first = words.next().context("nothing to execute")?;
    let arguments: Vec<&str> = words.chain(more.iter().copied()).collect();
    pod.start_program(label, first, &arguments)
}

fn write(program: &Program, rules: &Rules, server: SocketAddr, folder: &Path) -> Result<()> {
    let files = match program {
        Program::Nginx(_) => vec![("nginx.conf", text::nginx(rules, server))],
        Program::Haproxy(..) => {
            let texts = text::haproxy(rules, server, &folder.display().to_string());
            text::HAPROXY.into_iter().zip(texts).collect()
        }
        Program::Envoy(_) => {
            let settings = envoy::plain(rules, server, &folder.join(ROUTES));
            vec![("envoy.json", settings.to_string()), (ROUTES, envoy::routes(rules).to_string())]
        }
    };
    for (file, text) in files {
        // Put in place as a whole: Envoy looks at it as soon as that is done.
        let draft = folder.join(format!("{file}.draft"));
        fs::write(&draft, text).with_context(|| format!("writing {}", draft.display()))?;
        fs::rename(&draft, folder.join(file)).with_context(|| format!("putting {file} in place"))?;
    }
    Ok(())
}

/// A waypoint, and what it is told.
pub(super) struct Own {
    pub(super) waypoint: Waypoint,
    pub(super) objects: Objects,
}

impl Own {
    fn process(&self) -> Result<&Arc<Process>> {
        Ok(&self.waypoint.instance()?.process)
    }

    async fn again(&self, rules: &Rules) -> Result<()> {
        self.objects.apply(rules).await?;
        let process = self.process()?;
        process.kill()?;
        process.start_again()?;
        self.waypoint.instance()?.ready().await
    }
}

/// See the module.
pub(super) enum Proxy {
    /// Not ours.
    Other(Other),
    /// An Envoy in the place of a waypoint, in its pod; its rules do not change.
    Fixed(Pod, Arc<Process>),
    /// Ours.
    Own(Arc<Own>),
}

impl Proxy {
    /// Starts it again, with these rules from its beginning.
    pub(super) async fn again(&self, rules: &Rules) -> Result<()> {
        match self {
            Self::Other(other) => other.again(rules).await,
            Self::Fixed(pod, process) => {
                ensure!(*rules == Rules::ONE, "{} has no other rules", process.name());
                process.kill()?;
                process.start_again()?;
                web::listening(pod, Arc::clone(process), HBONE).await.map(drop)
            }
            Self::Own(own) => own.again(rules).await,
        }
    }

    /// Tells it new rules while it runs, and waits for nothing.
    pub(super) fn tell(&self, rules: &Rules) -> Result<()> {
        match self {
            Self::Other(other) => other.tell(rules),
            Self::Fixed(_, process) => bail!("{} has no other rules", process.name()),
            Self::Own(own) => own.objects.publish(rules),
        }
    }

    /// Its processes.
    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        let of = |process: &Arc<Process>| {
            process.pid().map(|pid| vec![pid]).with_context(|| format!("{} has ended", process.name()))
        };
        match self {
            Self::Other(other) => other.pids(),
            Self::Fixed(_, process) => of(process),
            Self::Own(own) => of(own.process()?),
        }
    }
}
