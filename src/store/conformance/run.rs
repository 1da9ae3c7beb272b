//! The list of cases and how they are run.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::kit::{Check, Instances};
use super::{cancel, contract, decide, fence, isolate, life, list, load, once, order, retain, tell, whole};

/// A store that has not answered by then never will.
const DEADLINE: Duration = Duration::from_secs(120);

/// One case: a situation, and the sentence of the contract that says what must come of it.
#[derive(Clone, Copy)]
pub struct Case {
    /// What must be true, as a test's name.
    pub name: &'static str,
    /// The sentence of the contract.
    pub sentence: &'static str,
    check: fn(Instances) -> Pin<Box<dyn Future<Output = Check> + Send>>,
}

/// A sentence of the contract that a store does not keep. `Display` and `Debug` tell the whole story.
#[derive(Clone, PartialEq, Eq)]
pub struct Broken {
    /// The case that found it.
    pub case: &'static str,
    /// The sentence.
    pub sentence: &'static str,
    /// What was seen instead.
    pub seen: String,
}

/// How one case went.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The case.
    pub case: Case,
    /// `Ok` when the store kept its sentence.
    pub verdict: Result<(), Broken>,
}

/// How all cases went. `Display` shows one line per case, and what is broken.
#[derive(Debug, Clone)]
pub struct Report {
    /// One for each case, in the order of [`cases`].
    pub outcomes: Vec<Outcome>,
}

/// Every case of the suite.
pub fn cases() -> &'static [Case] {
    CASES
}

/// Runs every case, one after the other.
///
/// # Cancellation
/// Dropping the future stops the suite; sessions that it began stay in the store.
pub async fn run_all(instances: &Instances) -> Report {
    let mut outcomes = Vec::with_capacity(CASES.len());
    for case in CASES {
        outcomes.push(Outcome { case: *case, verdict: case.run(instances).await });
    }
    Report { outcomes }
}

impl Case {
    /// The case of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        CASES.iter().find(|case| case.name == name)
    }

    /// Runs the case in a task of its own, for two minutes at most.
    ///
    /// # Errors
    /// [`Broken`] when the store does not keep the sentence, panics, or does not answer.
    pub async fn run(&self, instances: &Instances) -> Result<(), Broken> {
        let task = AbortOnDropHandle::new(tokio::spawn((self.check)(instances.clone())));
        let seen = match tokio::time::timeout(DEADLINE, task).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(seen))) => seen,
            Ok(Err(stopped)) => format!("the store did not answer: {stopped}"),
            Err(_) => format!("the case had not ended after {DEADLINE:?}"),
        };
        Err(Broken { case: self.name, sentence: self.sentence, seen })
    }
}

impl Report {
    /// Whether the store kept every sentence.
    pub fn is_ok(&self) -> bool {
        self.broken().next().is_none()
    }

    /// What the store did not keep.
    pub fn broken(&self) -> impl Iterator<Item = &Broken> {
        self.outcomes.iter().filter_map(|outcome| outcome.verdict.as_ref().err())
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  the contract: {}\n  seen: {}", self.case, self.sentence, self.seen)
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Broken {}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Ok(()) => write!(f, "ok      {}", self.case.name),
            Err(broken) => write!(f, "BROKEN  {broken}"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.outcomes.iter().try_for_each(|outcome| writeln!(f, "{outcome}"))?;
        write!(f, "{} cases, {} broken", self.outcomes.len(), self.broken().count())
    }
}

/// The one list of cases: [`CASES`] and [`conformance_tests!`](crate::conformance_tests) are made of it.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_cases {
    ($then:path, $($given:tt)*) => {
        $then! { $($given)* =>
            whole::a_session_nobody_began_is_absent: LOAD;
            whole::the_first_turn_begins_the_session: ORDER;
            whole::an_acknowledged_turn_is_in_every_later_load: DURABLE;
            whole::messages_come_back_byte_for_byte: WHOLE;
            whole::time_and_status_of_a_turn_come_back: WHOLE;
            whole::ids_of_any_bytes_are_kept: ONCE;
            whole::a_turn_of_many_messages_is_whole: WHOLE;
            whole::a_turn_without_messages_is_a_turn: WHOLE;
            whole::a_large_turn_is_whole: WHOLE;
            whole::a_turn_beyond_the_limit_is_refused_and_not_stored: TOO_LARGE;
            once::a_second_attempt_is_answered_as_a_duplicate: DUPLICATE;
            once::a_second_attempt_at_another_instance_is_a_duplicate: ONCE;
            once::a_second_attempt_after_later_turns_is_a_duplicate: ONCE;
            once::the_turn_that_was_stored_first_is_the_one_that_stays: DUPLICATE;
            once::a_duplicate_is_found_before_any_other_condition: DUPLICATE;
            once::a_duplicate_beyond_every_usual_window_is_found: ONCE;
            once::one_id_in_two_sessions_is_two_turns: ONCE;
            once::an_id_of_a_deleted_session_is_free: ONCE;
            once::a_refused_id_may_be_used_again: ONCE;
            once::turns_delivered_many_times_at_once_are_stored_once: ONCE;
            once::one_first_turn_delivered_many_times_at_once_is_stored_once: ONCE;
            order::turns_are_numbered_without_gaps: ORDER;
            order::fifty_turns_at_once_are_all_kept: ATOMIC;
            order::readers_see_a_growing_prefix_of_whole_turns: ORDER;
            order::a_thousand_turns_at_once_harm_no_other_session: ISOLATED;
            decide::rebase_keeps_a_turn_whose_history_is_old: CONFLICT;
            decide::strict_refuses_a_turn_whose_history_is_old: CONFLICT;
            decide::of_strict_turns_at_once_one_is_stored: ATOMIC;
            decide::of_strict_first_turns_at_once_one_is_stored: ATOMIC;
            decide::two_first_turns_at_once_are_both_kept: FIRST_LIFE;
            decide::a_late_first_turn_is_a_conflict_only_when_strict: FIRST_LIFE;
            decide::lost_turns_are_noticed: ROLLED_BACK;
            decide::another_epoch_is_gone_whatever_its_sequence: GONE;
            decide::a_session_that_is_not_there_is_gone: GONE;
            decide::without_an_expectation_a_turn_is_always_stored: UNCONDITIONAL;
            fence::a_deleted_session_has_no_turns: DELETE;
            fence::a_deleted_session_tells_its_next_head: DELETED_HEAD;
            fence::a_turn_loaded_before_a_delete_is_gone: FENCED;
            fence::a_first_turn_loaded_before_a_delete_is_gone: FENCED;
            fence::a_deleted_session_can_be_begun_anew: ANEW;
            fence::turns_loaded_after_a_delete_are_like_any_two_first_turns: CONFLICT;
            fence::every_life_has_a_larger_epoch: ANEW;
            fence::deleting_what_is_not_there_is_ok: DELETE_NOTHING;
            fence::no_turn_outlives_a_delete_that_it_races_with: DELETE;
            life::a_session_expires: EXPIRED;
            life::a_session_without_a_ttl_lives: LIFE;
            life::an_append_extends_the_life: LIFE;
            life::a_duplicate_extends_the_life: LIFE_OF_DUPLICATE;
            life::a_life_longer_than_any_clock_is_for_ever: LIFE;
            life::an_append_can_shorten_the_life: LIFE;
            life::the_shortest_lives_end: LIFE;
            life::a_turn_loaded_before_the_session_expired_is_gone: FENCED;
            life::an_expired_session_can_be_begun_anew: ANEW;
            life::two_first_turns_after_an_expiry_are_both_kept: EXPIRED;
            retain::by_turns_the_newest_are_kept: TRIM;
            retain::by_bytes_whole_oldest_turns_go: TRIM;
            retain::the_newest_turn_is_never_trimmed: TRIM;
            retain::the_default_keeps_everything: TRIM;
            retain::a_shorter_retention_trims_what_was_kept_before: TRIM;
            retain::a_trimmed_session_goes_on_as_before: ORDER;
            retain::the_id_of_a_trimmed_turn_is_free: ONCE;
            retain::by_bytes_messages_are_counted_and_nothing_else: TRIM;
            load::a_window_of_turns_is_filled: LOAD;
            load::a_window_of_messages_takes_whole_turns: LOAD;
            load::a_window_of_bytes_takes_whole_turns: LOAD;
            load::the_newest_turn_always_fits: WINDOW;
            load::a_window_of_nothing_gives_the_head: WINDOW;
            load::truncated_says_that_older_turns_are_stored: TRUNCATED;
            load::beside_what_is_newer_truncated_speaks_of_the_window: BESIDE_SINCE;
            load::kept_says_how_many_turns_are_stored: KEPT;
            load::a_load_is_of_one_moment: LOAD;
            load::with_a_known_head_only_what_is_newer_is_loaded: KNOWN;
            load::a_window_that_the_newer_turns_exceed_is_loaded_whole: KNOWN;
            load::a_known_head_of_another_life_is_unknown: KNOWN;
            load::a_known_head_beyond_the_session_is_unknown: KNOWN;
            load::a_known_head_before_trimmed_turns_is_unknown: KNOWN;
            load::what_is_newer_completes_what_is_known: KNOWN;
            load::a_turn_is_found_wherever_it_stands: FIND;
            load::a_turn_of_another_session_is_not_found: FIND;
            list::the_most_recently_active_comes_first: LIST;
            list::pages_show_each_session_once: PAGE;
            list::the_last_page_says_that_it_is_the_last: PAGE;
            list::a_scope_names_its_sessions_and_no_others: SCOPE;
            list::the_scope_of_all_shows_everybodys_sessions: SCOPE;
            list::sessions_without_turns_are_not_listed: LIST;
            list::a_turn_in_time_keeps_a_session_listed: LIST;
            list::a_foreign_cursor_opens_no_other_scope: SCOPE;
            isolate::keys_that_look_alike_are_different_sessions: ISOLATED;
            isolate::listed_keys_are_the_keys_that_were_stored: ISOLATED;
            isolate::the_longest_keys_are_keys: ISOLATED;
            isolate::hostile_text_is_data: ISOLATED;
            cancel::a_dropped_append_is_stored_whole_or_not_at_all: CANCELLED;
            cancel::dropped_calls_leave_the_store_fit: CANCELLED;
            cancel::a_dropped_delete_deletes_all_or_nothing: CANCELLED;
            cancel::many_dropped_appends_block_nobody: CANCELLED;
            tell::what_a_store_is_does_not_change: INFO;
            tell::ping_answers_while_the_store_serves: PING;
            tell::debug_output_names_nobody: REDACTED;
        }
    };
}

macro_rules! table {
    (=> $($module:ident::$name:ident: $sentence:ident;)+) => {
        const CASES: &[Case] = &[$(Case {
            name: stringify!($name),
            sentence: contract::$sentence,
            check: |instances| Box::pin(async move { $module::$name(&instances).await }),
        }),+];
    };
}
__conformance_cases!(table,);

/// Makes one `#[tokio::test]` of each conformance case.
///
/// Takes the path of a function, or a closure, that returns a future of
/// [`Instances`](crate::store::conformance::Instances). See [`conformance`](crate::store::conformance).
#[macro_export]
macro_rules! conformance_tests {
    ($instances:expr) => {
        $crate::__conformance_cases! { $crate::__conformance_tests, $instances }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ($instances:expr => $($module:ident::$name:ident: $sentence:ident;)+) => {$(
        #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() -> ::core::result::Result<(), $crate::store::conformance::Broken> {
            let case = $crate::store::conformance::Case::named(stringify!($name)).expect("made of the same list");
            let instances = ($instances)().await;
            case.run(&instances).await
        }
    )+};
}
