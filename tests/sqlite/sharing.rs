//! Several handles, many writers, and the model.

use proptest::test_runner::{Config, TestRunner};
use tower_session_memory::store::{Append, ErrorKind, Store};
use tower_session_memory::{Concurrency, Head, InMemory, SqliteStore};

use crate::kit::{Place, add, key, turn, turns};
use crate::model;

#[test]
fn it_answers_as_the_model_does() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let place = Place::new();
    let handles = runtime.block_on(async { [place.open().await, place.open().await] });
    let mut runner = TestRunner::new(Config { cases: 100, failure_persistence: None, ..Config::default() });
    let run = runner.run(&model::steps(), |steps| {
        runtime.block_on(model::agree(&InMemory::new(), &handles, &steps));
        Ok(())
    });
    run.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_turns_at_once_are_all_kept_in_one_order() {
    let place = Place::new();
    let stores = [place.open().await, place.open().await];
    let tasks: Vec<_> = (0..50)
        .map(|number| {
            let (store, turn) = (stores[number % 2].clone(), turn(&format!("{number}")));
            tokio::spawn(async move {
                let append = Append::new(turn.clone(), Head::ABSENT);
                (store.append(&key("a"), &append).await.unwrap().sequence, turn)
            })
        })
        .collect();
    let mut acknowledged = Vec::new();
    for task in tasks {
        acknowledged.push(task.await.unwrap());
    }
    acknowledged.sort_by_key(|(sequence, _)| *sequence);
    let (sequences, given): (Vec<u64>, Vec<_>) = acknowledged.into_iter().unzip();
    assert_eq!(sequences, (1..=50).collect::<Vec<_>>());
    for store in &stores {
        assert_eq!(turns(store, &key("a")).await, given);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_strict_turns_at_once_one_is_kept() {
    let place = Place::new();
    let stores = [place.open().await, place.open().await];
    let head = add(&stores[0], &key("a"), &turn("first")).await.unwrap().head;
    let attempts = (0..20).map(|number| {
        let (store, append) =
            (stores[number % 2].clone(), Append::new(turn("next"), head).concurrency(Concurrency::Strict));
        async move { store.append(&key("a"), &append).await }
    });
    let answers = futures_util::future::join_all(attempts).await;
    let refused =
        answers.iter().filter(|answer| answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::Conflict)).count();
    assert_eq!(refused, 19);
    assert_eq!(turns(&stores[1], &key("a")).await.len(), 2);
}

#[tokio::test]
async fn one_instance_reads_what_another_wrote_at_once() {
    let place = Place::new();
    let stores: [SqliteStore; 2] = [place.open().await, place.open().await];
    let mut given = Vec::new();
    for number in 0..40 {
        let turn = turn(&format!("{number}"));
        add(&stores[number % 2], &key("a"), &turn).await.unwrap();
        given.push(turn);
        assert_eq!(turns(&stores[(number + 1) % 2], &key("a")).await, given);
    }
}
