// SPDX-License-Identifier: Apache-2.0
//! What a pod costs.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use aya::programs::loaded_programs;

use crate::world::World;

const PODS: u32 = 250;
/// For one more pod, in all. The median is asserted: single ones wait for whatever else the machine does.
const TIME: Duration = Duration::from_millis(20);
/// Kernel memory for the programs of one more pod.
const MEMORY: u64 = 64 * 1024;

/// Programs of pods that are loaded now, and the memory that they take.
fn programs() -> (u64, u64) {
    let of_pods = loaded_programs().flatten().filter(|program| {
        program.name_as_str().is_some_and(|name| name.starts_with("enter_") || name == "steer")
    });
    let sizes: Vec<u64> = of_pods
        .filter_map(|program| {
            Some(u64::from(program.memory_locked().ok()?) + u64::from(program.size_jitted()))
        })
        .collect();
    (sizes.len() as u64, sizes.iter().sum())
}

#[test]
fn one_more_pod_takes_milliseconds_and_little_memory_up_to_250_pods() {
    let mut world = World::new();
    // What is measured is this work, not how long it waits for a processor. Threads inherit it.
    let renice =
        Command::new("renice").args(["-n", "-20", "-p", &nix::unistd::gettid().to_string()]).output();
    assert!(renice.unwrap().status.success());
    let pods = world.crowd(PODS);
    let capture = world.load();
    let (count_before, memory_before) = programs();
    let mut times: Vec<Duration> = Vec::new();
    for pod in &pods {
        let pod = pod.pod();
        let started = Instant::now();
        capture.attach(&pod).unwrap();
        times.push(started.elapsed());
    }
    let (count, memory) = programs();
    let memory = (memory - memory_before) / u64::from(PODS);
    let first = times[0];
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{PODS} pods: first {first:?}, median {median:?}, worst {worst:?}; {} programs, {memory} bytes a pod",
        count - count_before
    );
    assert!(median <= TIME, "{median:?}");
    assert!(memory <= MEMORY, "{memory}");
}
