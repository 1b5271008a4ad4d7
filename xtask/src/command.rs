// SPDX-License-Identifier: Apache-2.0
//! Which command there is, and which module does it.

use clap::Parser;

use crate::{bench, check, cluster, crds, demo, ebpf, fuzz, image, lab, step, test, tidy};

/// Build, check, test and run Ambit.
#[derive(Parser)]
#[command(name = "cargo xtask")]
pub(crate) enum Command {
    Check(check::Check),
    Tidy(tidy::Tidy),
    Test(test::Test),
    #[command(subcommand)]
    Lab(lab::Lab),
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    Demo(demo::Demo),
    Bench(bench::Bench),
    Crds(crds::Crds),
    Fuzz(fuzz::Fuzz),
    Image(image::Image),
    Ebpf(step::Ebpf),
}

impl Command {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Check(check) => check.run(),
            Self::Tidy(tidy) => tidy.run(),
            Self::Test(test) => test.run(),
            Self::Lab(lab) => lab.run(),
            Self::Cluster(cluster) => cluster.run(),
            Self::Demo(demo) => demo.run(),
            Self::Bench(bench) => bench.run(),
            Self::Crds(crds) => crds.run(),
            Self::Fuzz(fuzz) => fuzz.run(),
            Self::Image(image) => image.run(),
            Self::Ebpf(ebpf) => ebpf::run(ebpf.check),
        }
    }
}
