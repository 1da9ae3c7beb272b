//! The suite bites: each flaw breaks the cases that stand for what it gets wrong.

use tower_session_memory::InMemory;
use tower_session_memory::store::conformance::{self, Case, Instances};

use crate::flawed::{Flaw, Flawed};

/// Every case named must fail, and say a sentence of the contract.
async fn breaks(instances: Instances, names: &[&str]) {
    for name in names {
        let case = Case::named(name).unwrap_or_else(|| panic!("no case {name}"));
        let broken = case.run(&instances).await.expect_err(name);
        assert_eq!(broken.case, *name);
        assert!(broken.to_string().contains(case.sentence), "{broken}");
        assert!(!broken.seen.is_empty(), "{broken}");
    }
}

macro_rules! flaws {
    ($($test:ident: $flaw:ident breaks $($case:ident)+;)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            breaks(Instances::new(Flawed::new(Flaw::$flaw)), &[$(stringify!($case)),+]).await;
        }
    )+};
}

flaws! {
    ids_forgotten: ForgetsIds breaks
        a_second_attempt_is_answered_as_a_duplicate
        a_second_attempt_at_another_instance_is_a_duplicate
        turns_delivered_many_times_at_once_are_stored_once
        one_first_turn_delivered_many_times_at_once_is_stored_once
        a_dropped_append_is_stored_whole_or_not_at_all;
    old_ids_forgotten: ForgetsOldIds breaks
        a_duplicate_beyond_every_usual_window_is_found;
    duplicates_echoed: EchoesTheDuplicate breaks
        the_turn_that_was_stored_first_is_the_one_that_stays;
    ids_looked_for_last: LooksForIdsLast breaks
        a_duplicate_is_found_before_any_other_condition;
    checked_then_written: ChecksThenWrites breaks
        of_strict_turns_at_once_one_is_stored
        of_strict_first_turns_at_once_one_is_stored;
    updates_lost: LosesUpdates breaks
        fifty_turns_at_once_are_all_kept
        two_first_turns_at_once_are_both_kept
        readers_see_a_growing_prefix_of_whole_turns
        a_thousand_turns_at_once_harm_no_other_session;
    turns_torn: TearsTurns breaks
        a_dropped_append_is_stored_whole_or_not_at_all
        many_dropped_appends_block_nobody
        readers_see_a_growing_prefix_of_whole_turns;
    messages_reprinted: Reprints breaks
        messages_come_back_byte_for_byte;
    turns_reordered: Reorders breaks
        turns_are_numbered_without_gaps
        readers_see_a_growing_prefix_of_whole_turns;
    answered_early: AnswersEarly breaks
        an_acknowledged_turn_is_in_every_later_load
        turns_are_numbered_without_gaps;
    fence_forgotten: ForgetsTheFence breaks
        a_turn_loaded_before_a_delete_is_gone
        a_first_turn_loaded_before_a_delete_is_gone
        no_turn_outlives_a_delete_that_it_races_with
        another_epoch_is_gone_whatever_its_sequence
        a_session_that_is_not_there_is_gone
        a_turn_loaded_before_the_session_expired_is_gone;
    lost_turns_accepted: AcceptsLostTurns breaks
        lost_turns_are_noticed;
    ttl_ignored: IgnoresTtl breaks
        a_session_expires;
    duplicates_do_not_extend: DuplicatesDoNotExtend breaks
        a_duplicate_extends_the_life;
    retention_ignored: IgnoresRetention breaks
        by_turns_the_newest_are_kept
        by_bytes_whole_oldest_turns_go
        the_newest_turn_is_never_trimmed
        a_known_head_before_trimmed_turns_is_unknown;
    windows_ignored: IgnoresWindows breaks
        a_window_of_turns_is_filled
        a_window_of_messages_takes_whole_turns
        a_window_of_bytes_takes_whole_turns
        a_window_of_nothing_gives_the_head
        the_newest_turn_always_fits;
    known_heads_trusted: TrustsKnownHeads breaks
        a_known_head_of_another_life_is_unknown
        a_known_head_beyond_the_session_is_unknown
        a_window_that_the_newer_turns_exceed_is_loaded_whole
        a_known_head_before_trimmed_turns_is_unknown;
    loaded_in_two_steps: LoadsInTwoSteps breaks
        a_load_is_of_one_moment
        what_is_newer_completes_what_is_known;
    found_in_the_window_only: FindsInTheWindow breaks
        a_turn_is_found_wherever_it_stands;
    truncation_hidden: HidesTruncation breaks
        truncated_says_that_older_turns_are_stored;
    only_what_is_newer_is_counted: CountsNewerOnly breaks
        kept_says_how_many_turns_are_stored;
    truncation_of_what_is_newer: SpeaksOfNewer breaks
        beside_what_is_newer_truncated_speaks_of_the_window;
    case_folded: FoldsCase breaks
        keys_that_look_alike_are_different_sessions;
    scopes_ignored: IgnoresScopes breaks
        a_scope_names_its_sessions_and_no_others
        a_foreign_cursor_opens_no_other_scope;
    pages_repeated: RepeatsPages breaks
        pages_show_each_session_once
        the_most_recently_active_comes_first;
    busy_for_ever: StaysBusy breaks
        a_dropped_append_is_stored_whole_or_not_at_all
        many_dropped_appends_block_nobody;
    large_turns_refused: RefusesLargeTurns breaks
        a_large_turn_is_whole;
    a_panic_is_told: Panics breaks
        ping_answers_while_the_store_serves;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_is_told() {
    let instances = Instances::new(Flawed::new(Flaw::Hangs));
    breaks(instances, &["ping_answers_while_the_store_serves"]).await;
}

#[tokio::test]
async fn two_instances_that_share_nothing_are_told() {
    let instances = Instances::new(InMemory::new()).and(InMemory::new());
    breaks(instances, &["an_acknowledged_turn_is_in_every_later_load", "the_first_turn_begins_the_session"]).await;
}

/// A flaw breaks what it is about, and `run_all` still tells of every case.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_all_tells_what_is_broken_and_what_is_not() {
    let report = conformance::run_all(&Instances::new(Flawed::new(Flaw::HidesTruncation))).await;
    assert!(!report.is_ok());
    let broken: Vec<&str> = report.broken().map(|broken| broken.case).collect();
    assert_eq!(broken, ["truncated_says_that_older_turns_are_stored"], "{report}");
    assert_eq!(report.outcomes.len(), conformance::cases().len());
}
