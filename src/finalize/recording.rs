//! What became of a recording: reports merged in any order, one status per session.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::join::JoinedEgress;
use super::session::Session;
use super::transcript::milliseconds;
use crate::event::{Egress, EgressFile, EgressStatus};
use crate::webhook::EventType;

/// Where a session's recording stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RecordingStatus {
    /// Not asked for.
    #[default]
    None,
    /// Asked for; not yet there.
    Pending,
    /// Being finished.
    Processing,
    /// A stored, non-empty file.
    Ready,
    /// There will be none.
    Failed,
}

impl RecordingStatus {
    /// The status as it stands in databases and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Pending => "PENDING",
            Self::Processing => "PROCESSING",
            Self::Ready => "READY",
            Self::Failed => "FAILED",
        }
    }

    /// The status with this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::None, Self::Pending, Self::Processing, Self::Ready, Self::Failed]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

/// What the API says of a session's recording.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RecordingState {
    /// Where it stands.
    pub status: RecordingStatus,
    /// `s3://bucket/key` or `file:///folder/name`; only when READY.
    pub url: Option<String>,
    /// The file's first frame, in milliseconds after the session's start.
    pub offset_ms: Option<i64>,
}

/// What the sweep found out about the recording of a finalized session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The file that the worker stored is there; or it lies where nobody may look, and the
    /// worker's word counts.
    Stored {
        /// The worker's word for where it is.
        url: String,
    },
    /// Nothing final was heard of it in time.
    GivenUp {
        /// The deadline has passed for what was finalized until then.
        finalized_by: DateTime<Utc>,
    },
}

impl Finding {
    /// Whether it still says something of the session, as this is now.
    pub(super) fn is_news(&self, session: &Session) -> bool {
        let status = session.recording.status;
        let is_open = matches!(status, RecordingStatus::Pending | RecordingStatus::Processing);
        match self {
            _ if session.revision == 0 => false,
            Self::Stored { url } => {
                session.recording_worker_url.as_ref() == Some(url)
                    && session.recording_egress_id.is_none()
                    && !session.is_recording_found
                    && status != RecordingStatus::Ready
            }
            Self::GivenUp { finalized_by } => {
                is_open && session.finalized_at.is_some_and(|at| at <= *finalized_by)
            }
        }
    }

    /// What it makes of the recording.
    pub(super) fn outcome(&self) -> EventType {
        match self {
            Self::Stored { .. } => EventType::RecordingReady,
            Self::GivenUp { .. } => EventType::RecordingFailed,
        }
    }
}

/// The later of two reports on the same egress. Commutative, associative, idempotent.
///
/// A stored file is never undone; else what is terminal is later, then what was updated later,
/// then what stands further on. Reports that are equal in all of that are ordered by their
/// content. A room that only one of the two names is kept, and so is who else told of it.
pub fn merge_egress(one: Egress, other: Egress) -> Egress {
    let (later, earlier) = if order(&one) >= order(&other) { (one, other) } else { (other, one) };
    Egress {
        room_id: later.room_id.max(earlier.room_id),
        room_name: later.room_name.max(earlier.room_name),
        is_from_livekit: later.is_from_livekit && earlier.is_from_livekit,
        ..later
    }
}

/// What an egress came to: `RecordingReady` or `RecordingFailed`; nothing while it runs.
pub fn egress_outcome(egress: &Egress) -> Option<EventType> {
    match status_of(egress) {
        RecordingStatus::Ready => Some(EventType::RecordingReady),
        RecordingStatus::Failed => Some(EventType::RecordingFailed),
        RecordingStatus::None | RecordingStatus::Pending | RecordingStatus::Processing => None,
    }
}

/// What all reports on a session's egresses, the worker's request and the facts found by the
/// sweep amount to. `place` is the default recordings place (`s3://…` or `file:///…`).
/// The order of `egresses` does not matter.
pub fn settle_recording(session: &Session, egresses: &[Egress], place: &str) -> RecordingState {
    let Some(Candidate { status, url, file_started_at, .. }) = best(session, egresses, place)
    else {
        return RecordingState::default();
    };
    match status {
        RecordingStatus::Ready => RecordingState {
            status,
            url: Some(url),
            offset_ms: file_started_at.map(|at| milliseconds(session.started_at, at)),
        },
        RecordingStatus::Failed | RecordingStatus::None => {
            RecordingState { status, ..RecordingState::default() }
        }
        RecordingStatus::Pending | RecordingStatus::Processing => {
            let is_over = session.is_recording_given_up;
            let status = if is_over { RecordingStatus::Failed } else { status };
            RecordingState { status, ..RecordingState::default() }
        }
    }
}

/// The egress that a session's recording is to come from; none if it is not known, or if the worker
/// stored the file itself.
pub(super) fn awaited_egress(session: &Session, egresses: &[Egress]) -> Option<String> {
    let egress_id = best(session, egresses, "")?.egress_id;
    (!egress_id.is_empty()).then(|| egress_id.to_owned())
}

fn best<'a>(session: &'a Session, egresses: &'a [Egress], place: &str) -> Option<Candidate<'a>> {
    let seen = egresses.iter().map(|egress| Candidate::of(egress, place));
    let awaited = awaited(session, egresses);
    seen.chain(awaited).max_by(|one, other| one.order().cmp(&other.order()))
}

/// What an egress makes of a recording, taken for itself.
fn status_of(egress: &Egress) -> RecordingStatus {
    match egress.status {
        EgressStatus::Starting | EgressStatus::Active => RecordingStatus::Pending,
        EgressStatus::Ending => RecordingStatus::Processing,
        EgressStatus::Complete if stored_file(egress).is_some() => RecordingStatus::Ready,
        EgressStatus::Aborted | EgressStatus::Failed | EgressStatus::Complete => {
            RecordingStatus::Failed
        }
    }
}

/// The name of the file that a player can be given.
fn stored_file(egress: &Egress) -> Option<&str> {
    let file = egress.file.as_ref().filter(|file| file.is_stored && file.size > 0)?;
    (!egress.is_backup_only && !file.filename.is_empty()).then_some(&file.filename)
}

/// The order of reports on one egress; everything but the room, which is joined.
fn order(egress: &Egress) -> impl Ord + '_ {
    let file = egress
        .file
        .as_ref()
        .map(|file| (&file.filename, &file.bucket, file.size, file.is_stored, file.started_at));
    (
        status_of(egress) == RecordingStatus::Ready,
        egress.status >= EgressStatus::Aborted,
        egress.updated_at_ns,
        egress.status,
        (egress.started_at, egress.ended_at),
        file,
        (egress.is_backup_only, &egress.error, &egress.egress_id),
    )
}

/// Where files of the session's recordings lie, or may lie, each once.
pub fn recording_files(session: &Session, egresses: &[JoinedEgress], place: &str) -> Vec<String> {
    let named = session.recording.url.iter().chain(&session.recording_worker_url).cloned();
    let reported = egresses.iter().filter_map(|row| {
        let file = row.egress.file.as_ref()?;
        Some(file_url(file, place))
    });
    named.chain(reported).collect::<BTreeSet<String>>().into_iter().collect()
}

fn file_url(file: &EgressFile, place: &str) -> String {
    match file.bucket.as_deref().filter(|name| !name.is_empty()) {
        Some(bucket) => format!("s3://{bucket}/{}", file.filename),
        None => url_below(place, &file.filename),
    }
}

/// One way in which the session may come to a recording.
struct Candidate<'a> {
    status: RecordingStatus,
    url: String,
    file_started_at: Option<DateTime<Utc>>,
    egress_id: &'a str,
}

impl<'a> Candidate<'a> {
    fn of(egress: &'a Egress, place: &str) -> Self {
        let status = status_of(egress);
        let file = egress.file.as_ref().filter(|_| status == RecordingStatus::Ready);
        let url = file.map(|file| file_url(file, place));
        Self {
            status,
            url: url.unwrap_or_default(),
            file_started_at: file.and_then(|file| file.started_at),
            egress_id: &egress.egress_id,
        }
    }

    /// Ready before processing, pending and failed; then the earliest file.
    fn order(&self) -> impl Ord + '_ {
        let rank = match self.status {
            RecordingStatus::None => 0,
            RecordingStatus::Failed => 1,
            RecordingStatus::Pending => 2,
            RecordingStatus::Processing => 3,
            RecordingStatus::Ready => 4,
        };
        let start = self.file_started_at;
        (rank, start.is_some(), Reverse(start), Reverse(self.egress_id), Reverse(&self.url))
    }
}

/// What is awaited beside the egresses that were heard of: the file that the worker stored
/// itself, the egress it named, or any at all.
fn awaited<'a>(session: &'a Session, egresses: &[Egress]) -> Option<Candidate<'a>> {
    let pending = |egress_id| Candidate {
        status: RecordingStatus::Pending,
        url: String::new(),
        file_started_at: None,
        egress_id,
    };
    if let Some(egress_id) = session.recording_egress_id.as_deref() {
        let is_known = egresses.iter().any(|egress| egress.egress_id == egress_id);
        return (!is_known).then(|| pending(egress_id));
    }
    match &session.recording_worker_url {
        Some(url) if session.is_recording_found => {
            Some(Candidate { status: RecordingStatus::Ready, url: url.clone(), ..pending("") })
        }
        // An egress that failed says nothing of the worker's own file.
        Some(_) => Some(pending("")),
        None => (session.recording_expected && egresses.is_empty()).then(|| pending("")),
    }
}

/// The address of a file in a recordings place. Egresses name a file by its whole path, so what
/// the name repeats of the place is left out.
fn url_below(place: &str, filename: &str) -> String {
    let place = place.trim_end_matches('/');
    let name = filename.trim_start_matches('/');
    let path_at = place.find("://").map_or(0, |at| at + 3);
    let folder = match place[path_at..].split_once('/') {
        Some((_bucket, folder)) => folder,
        None => "",
    };
    let below = name.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
    let name = below.filter(|_| !folder.is_empty()).unwrap_or(name);
    format!("{place}/{name}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{sample, session::finalize};
    use super::*;
    use crate::event::{Call, RecordingRequest};
    use crate::finalize::PriceBook;

    fn session(recording: Option<RecordingRequest<'static>>) -> Session {
        let call = Call { recording, ..sample::call() };
        finalize(&sample::ended(call), &PriceBook::builtin()).unwrap()
    }

    fn expected() -> Session {
        session(Some(RecordingRequest { expected: true, egress_id: None, url: None }))
    }

    fn egress(egress_id: &str, status: EgressStatus) -> Egress {
        Egress {
            egress_id: egress_id.to_owned(),
            room_id: None,
            room_name: None,
            status,
            updated_at_ns: 5,
            started_at: None,
            ended_at: None,
            file: None,
            is_backup_only: false,
            error: None,
            is_from_livekit: false,
        }
    }

    fn ready(egress_id: &str, start: f64) -> Egress {
        let file = EgressFile {
            filename: format!("{egress_id}.mp4"),
            bucket: Some("oshara-recordings".to_owned()),
            size: 2_956_123,
            is_stored: true,
            started_at: Some(sample::at(start)),
        };
        Egress { file: Some(file), ..egress(egress_id, EgressStatus::Complete) }
    }

    const PLACE: &str = "s3://default/calls";

    fn status(session: &Session, egresses: &[Egress]) -> RecordingStatus {
        settle_recording(session, egresses, PLACE).status
    }

    #[test]
    fn a_recording_that_nobody_asked_for_is_none() {
        assert_eq!(settle_recording(&session(None), &[], PLACE), RecordingState::default());
        let declined = RecordingRequest { expected: false, egress_id: None, url: None };
        assert_eq!(status(&session(Some(declined)), &[]), RecordingStatus::None);
    }

    #[test]
    fn an_egress_leads_from_pending_over_processing_to_its_end() {
        let session = expected();
        assert_eq!(status(&session, &[]), RecordingStatus::Pending);
        for (state, expected) in [
            (EgressStatus::Starting, RecordingStatus::Pending),
            (EgressStatus::Active, RecordingStatus::Pending),
            (EgressStatus::Ending, RecordingStatus::Processing),
            (EgressStatus::Aborted, RecordingStatus::Failed),
            (EgressStatus::Failed, RecordingStatus::Failed),
            (EgressStatus::Complete, RecordingStatus::Failed),
        ] {
            assert_eq!(status(&session, &[egress("EG_1", state)]), expected, "{state:?}");
        }
        assert_eq!(
            settle_recording(&session, &[ready("EG_1", 2.25)], PLACE),
            RecordingState {
                status: RecordingStatus::Ready,
                url: Some("s3://oshara-recordings/EG_1.mp4".to_owned()),
                offset_ms: Some(2250),
            }
        );
    }

    #[test]
    fn a_file_that_cannot_be_played_is_a_failure() {
        let change = |change: fn(&mut EgressFile)| {
            let mut egress = ready("EG_1", 0.0);
            change(egress.file.as_mut().unwrap());
            egress
        };
        let backup = Egress { is_backup_only: true, ..ready("EG_1", 0.0) };
        let aborted = Egress { status: EgressStatus::Aborted, ..ready("EG_1", 0.0) };
        for egress in
            [change(|file| file.size = 0), change(|file| file.is_stored = false), backup, aborted]
        {
            assert_eq!(egress_outcome(&egress), Some(EventType::RecordingFailed));
            assert_eq!(status(&expected(), &[egress]), RecordingStatus::Failed);
        }
        assert_eq!(egress_outcome(&ready("EG_1", 0.0)), Some(EventType::RecordingReady));
        assert_eq!(egress_outcome(&egress("EG_1", EgressStatus::Ending)), None);
    }

    #[test]
    fn the_deadline_fails_what_is_open_and_a_later_file_still_counts() {
        let late = Session { is_recording_given_up: true, ..expected() };
        assert_eq!(status(&late, &[]), RecordingStatus::Failed);
        assert_eq!(status(&late, &[egress("EG_1", EgressStatus::Ending)]), RecordingStatus::Failed);
        assert_eq!(status(&late, &[ready("EG_1", 0.0)]), RecordingStatus::Ready);
    }

    #[test]
    fn of_several_egresses_the_best_counts_then_the_earliest_file() {
        let egresses = [
            egress("EG_1", EgressStatus::Failed),
            ready("EG_2", 9.0),
            ready("EG_3", 3.0),
            egress("EG_4", EgressStatus::Ending),
        ];
        let state = settle_recording(&expected(), &egresses, PLACE);
        assert_eq!(state.url.as_deref(), Some("s3://oshara-recordings/EG_3.mp4"));
        let open = [egresses[0].clone(), egresses[3].clone(), egress("E", EgressStatus::Active)];
        assert_eq!(status(&expected(), &open), RecordingStatus::Processing);
    }

    #[test]
    fn an_egress_that_the_worker_named_is_waited_for() {
        let request = RecordingRequest {
            expected: true,
            egress_id: Some("EG_1".into()),
            url: Some("s3://b/k".into()),
        };
        let session = session(Some(request));
        let failed = |egress_id| egress(egress_id, EgressStatus::Failed);
        assert_eq!(status(&session, &[failed("EG_2")]), RecordingStatus::Pending);
        assert_eq!(status(&session, &[failed("EG_1")]), RecordingStatus::Failed);
    }

    #[test]
    fn a_file_that_the_worker_stored_is_ready_once_it_is_found() {
        let request = RecordingRequest {
            expected: true,
            egress_id: None,
            url: Some("s3://bucket/own.mp4".into()),
        };
        let unseen = session(Some(request));
        assert_eq!(status(&unseen, &[]), RecordingStatus::Pending);
        let failed = egress("EG_1", EgressStatus::Failed);
        assert_eq!(status(&unseen, std::slice::from_ref(&failed)), RecordingStatus::Pending);
        let late = Session { is_recording_given_up: true, ..unseen.clone() };
        assert_eq!(status(&late, &[failed]), RecordingStatus::Failed);
        let found = Session { is_recording_found: true, ..unseen };
        let expected = RecordingState {
            status: RecordingStatus::Ready,
            url: Some("s3://bucket/own.mp4".to_owned()),
            offset_ms: None,
        };
        assert_eq!(settle_recording(&found, &[], PLACE), expected);
        let active = egress("EG_1", EgressStatus::Active);
        assert_eq!(settle_recording(&found, &[active], PLACE), expected, "never undone");
    }

    #[test]
    fn a_file_without_bucket_lies_in_the_default_place() {
        for (place, filename, expected) in [
            ("s3://b", "a/x.mp4", "s3://b/a/x.mp4"),
            ("s3://b/calls/", "x.mp4", "s3://b/calls/x.mp4"),
            ("s3://b/calls", "calls/x.mp4", "s3://b/calls/x.mp4"),
            ("s3://b/calls", "callsx.mp4", "s3://b/calls/callsx.mp4"),
            ("file:///var/rec", "x.mp4", "file:///var/rec/x.mp4"),
            ("file:///var/rec", "/var/rec/x.mp4", "file:///var/rec/x.mp4"),
        ] {
            let mut egress = ready("EG_1", 0.0);
            let file = egress.file.as_mut().unwrap();
            (file.bucket, file.filename) = (None, filename.to_owned());
            let state = settle_recording(&session(None), &[egress], place);
            assert_eq!(state.url.as_deref(), Some(expected));
        }
    }

    fn any_egress() -> impl Strategy<Value = Egress> {
        let status = prop_oneof![
            Just(EgressStatus::Starting),
            Just(EgressStatus::Active),
            Just(EgressStatus::Ending),
            Just(EgressStatus::Aborted),
            Just(EgressStatus::Failed),
            Just(EgressStatus::Complete),
        ];
        let file = ("[ab]", proptest::option::of("[bc]"), 0..2_i64, any::<bool>(), 0..2_u8)
            .prop_map(|(filename, bucket, size, is_stored, start)| EgressFile {
                filename,
                bucket,
                size,
                is_stored,
                started_at: (start > 0).then(|| sample::at(f64::from(start))),
            });
        let room = || proptest::option::of("[xy]");
        (status, 0..3_i64, proptest::option::of(file), room(), room(), 0..8_u8).prop_map(
            |(status, updated_at_ns, file, room_id, room_name, rest)| Egress {
                updated_at_ns,
                file,
                room_id,
                room_name,
                is_backup_only: rest == 7,
                error: (rest % 2 == 1).then(|| rest.to_string()),
                is_from_livekit: rest < 4,
                ..egress("EG_1", status)
            },
        )
    }

    proptest! {
        #[test]
        fn merging_takes_copies_in_any_order(
            one in any_egress(), other in any_egress(), third in any_egress()
        ) {
            let merge = |one: &Egress, other: &Egress| merge_egress(one.clone(), other.clone());
            prop_assert_eq!(merge(&one, &one), one.clone());
            let both = merge(&one, &other);
            prop_assert_eq!(&both, &merge(&other, &one));
            prop_assert_eq!(merge(&both, &third), merge(&one, &merge(&other, &third)));
            let is_ready = |egress| egress_outcome(egress) == Some(EventType::RecordingReady);
            prop_assert_eq!(is_ready(&both), is_ready(&one) || is_ready(&other));
        }

        #[test]
        fn settling_does_not_depend_on_the_order_of_egresses(
            mut egresses in proptest::collection::vec(any_egress(), 0..5),
            turn in 0..5_usize,
            has_given_up in any::<bool>(),
        ) {
            for (index, egress) in egresses.iter_mut().enumerate() {
                egress.egress_id = format!("EG_{index}");
            }
            let session = Session { is_recording_given_up: has_given_up, ..expected() };
            let one = settle_recording(&session, &egresses, PLACE);
            let turn = turn.min(egresses.len());
            egresses.rotate_left(turn);
            prop_assert_eq!(&settle_recording(&session, &egresses, PLACE), &one);
            egresses.reverse();
            prop_assert_eq!(&settle_recording(&session, &egresses, PLACE), &one);
            prop_assert_eq!(one.url.is_some(), one.status == RecordingStatus::Ready);
        }
    }
}
