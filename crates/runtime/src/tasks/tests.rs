// SPDX-License-Identifier: Apache-2.0
//! Tests: how tasks end.

use std::sync::atomic::AtomicBool;

use tokio::time::{Instant, timeout};

use super::*;

const LONG: Duration = Duration::from_secs(3600);

/// Says when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_takes_as_long_as_the_slowest_task_and_no_longer() {
    let tasks = Tasks::new();
    for seconds in [1, 5, 3] {
        let shutdown = tasks.shutdown();
        drop(tasks.spawn("connection", async move {
            shutdown.requested().await;
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }));
    }
    let started = Instant::now();
    assert_eq!(tasks.drain(LONG).await, Drained::default());
    assert_eq!(started.elapsed().as_secs(), 5);
    assert_eq!(tasks.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_at_the_deadline_is_dropped_and_named() {
    let tasks = Tasks::new();
    let dropped = Arc::new(AtomicBool::new(false));
    let witness = Dropped(Arc::clone(&dropped));
    let stubborn = tasks.spawn("stubborn", async move {
        let _witness = witness;
        std::future::pending::<()>().await;
    });
    drop(tasks.spawn("willing", {
        let shutdown = tasks.shutdown();
        async move { shutdown.requested().await }
    }));
    let started = Instant::now();
    let drained = tasks.drain(Duration::from_secs(7)).await;
    assert_eq!(drained.forced, [("stubborn", 1)]);
    assert_eq!(started.elapsed().as_secs(), 7);
    assert!(dropped.load(Ordering::SeqCst));
    assert_eq!(stubborn.await, Err(TaskError::Stopped { name: "stubborn" }));
    let late = tasks.spawn("late", std::future::pending::<()>());
    assert_eq!(late.await, Err(TaskError::Stopped { name: "late" }), "a drained group takes nothing on");
}

#[tokio::test(start_paused = true)]
async fn draining_a_group_leaves_its_siblings_and_its_parent_alone() {
    let process = Tasks::new();
    let (first, second) = (process.group("pod-1"), process.group("pod-2"));
    for tasks in [&process, &first, &second] {
        let shutdown = tasks.shutdown();
        drop(tasks.spawn("connection", async move { shutdown.requested().await }));
    }
    assert_eq!(process.running(), 3);
    first.drain(LONG).await;
    assert_eq!((first.running(), second.running(), process.running()), (0, 1, 2));
    assert!(!second.shutdown().requested.is_raised());
    assert!(!process.shutdown().forced.is_raised());
    process.drain(LONG).await;
    assert!(second.shutdown().requested.is_raised());
    assert_eq!(process.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn draining_a_process_names_the_stuck_tasks_of_its_groups() {
    let process = Tasks::new();
    let pod = process.group("pod").group("connection");
    drop(pod.spawn("stuck", std::future::pending::<()>()));
    assert_eq!(process.drain(Duration::from_secs(1)).await.forced, [("stuck", 1)]);
    assert!(pod.shutdown().forced.is_raised());
}

#[tokio::test]
async fn a_panic_is_the_result_of_its_task_and_of_nobody_else() {
    let tasks = Tasks::new();
    let fine = tasks.spawn("fine", async { 7 });
    let broken = tasks.spawn("broken", async { panic!("out of luck") });
    let expected = TaskError::Panicked { name: "broken", message: "out of luck".to_owned() };
    assert_eq!(broken.await.map(|()| 0), Err(expected));
    assert_eq!(fine.await, Ok(7));
    assert_eq!(tasks.running(), 0);
}

#[tokio::test]
async fn an_aborted_task_is_no_longer_counted() {
    let tasks = Tasks::new();
    let task = tasks.spawn("endless", std::future::pending::<()>());
    task.abort();
    assert_eq!(task.await, Err(TaskError::Stopped { name: "endless" }));
    assert_eq!(tasks.drain(LONG).await, Drained::default());
}

#[tokio::test]
async fn a_vital_task_that_ends_by_itself_is_reported_to_the_whole_process() {
    for (panics, how) in [(false, "ended"), (true, "panicked: gone")] {
        let process = Tasks::new();
        let pod = process.group("pod");
        drop(pod.spawn_vital("proxy", async move {
            assert!(!panics, "gone");
        }));
        let failed = timeout(LONG, process.failed()).await.unwrap();
        assert_eq!(failed.to_string(), format!("task proxy of pod {how}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_vital_task_that_ends_when_asked_to_has_not_failed() {
    let process = Tasks::new();
    let shutdown = process.shutdown();
    drop(process.spawn_vital("proxy", async move { shutdown.requested().await }));
    drop(process.spawn_vital("stuck", std::future::pending()));
    process.drain(Duration::from_secs(1)).await;
    assert!(timeout(Duration::from_secs(1), process.failed()).await.is_err());
}

#[test]
fn a_group_spawns_on_the_runtime_that_it_was_given() {
    let other =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("other").build().unwrap();
    let tasks = Tasks::new().on(other.handle().clone()).group("pod");
    let name = tasks.spawn("where", async { std::thread::current().name().map(str::to_owned) });
    assert_eq!(other.block_on(name), Ok(Some("other".to_owned())));
}
