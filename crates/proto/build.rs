// SPDX-License-Identifier: Apache-2.0
//! Compiles the schemas without a protoc binary.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let ours = ["route", "traffic", "guard", "telemetry"];
    let others = ["workload", "authorization", "discovery", "ca", "zds", "otlp"];
    let files = ours.into_iter().chain(others).map(|name| format!("proto/{name}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().bytes(".").btree_map(".istio.workload").compile_fds(descriptors)?;
    Ok(())
}
