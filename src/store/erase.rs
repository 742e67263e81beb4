//! Erasing a session: everything of it goes in one transaction, and what stays is as much as it takes
//! to know its events again. Its files lie elsewhere; the row remembers them until they are deleted.

use uuid::Uuid;

use super::StoreError;
use super::transaction::{EgressKeys, SessionKeys};
use crate::finalize::{JoinedEgress, Session};

/// What is known of the session that is to be erased, to be locked and read.
pub(super) fn session_keys(session_id: Uuid) -> SessionKeys {
    SessionKeys { ids: [session_id].into(), ..SessionKeys::default() }
}

/// Its recordings, those among them that nobody has heard of yet.
pub(super) fn egress_keys(session: &Session) -> EgressKeys {
    EgressKeys {
        ids: session.recording_egress_id.iter().cloned().collect(),
        sessions: [session.session_id].into(),
        ..EgressKeys::default()
    }
}

/// The recording is this session's, or will be.
pub(super) fn is_of(egress: &JoinedEgress, session: &Session) -> bool {
    let named = egress.named_session_id == Some(session.session_id)
        || session.recording_egress_id.as_ref() == Some(&egress.egress.egress_id);
    egress.session_id.map_or(named, |joined| joined == session.session_id)
}

/// Digests one after the other.
pub(super) fn digests(session: &Session) -> Vec<u8> {
    let all = std::iter::once(&session.digest).chain(&session.superseded);
    all.flatten().copied().collect()
}

/// Files as they are kept.
pub(super) fn files_json(files: &[String]) -> String {
    serde_json::to_string(files).expect("a list of strings is JSON")
}

/// Files as they were kept.
pub(super) fn files(json: &str) -> Result<Vec<String>, StoreError> {
    serde_json::from_str(json).map_err(|error| StoreError::Broken(error.into()))
}

pub(super) const ADD_ERASED_EGRESS: &str = "INSERT INTO erased_egresses (egress_id, session_id)
    VALUES ($1, $2) ON CONFLICT DO NOTHING";

pub(super) const NAMED_BY_ANOTHER: &str = "SELECT id FROM sessions
    WHERE recording_egress_id = $1 AND session_id <> $2 LIMIT 1";

pub(super) const DROP_EGRESS: &str = "DELETE FROM egresses WHERE egress_id = $1";

pub(super) const FILES: &str = "SELECT files FROM erased_sessions WHERE session_id = $1";

pub(super) const KEEP_FILES: &str = "UPDATE erased_sessions SET files = $2 WHERE session_id = $1";

/// The session's messages; it is among those that were erased already.
macro_rules! is_its_message {
    () => {
        "session_number = (SELECT id FROM erased_sessions WHERE session_id = $1)"
    };
}

/// Before anything else: it locks the messages, so that none of their deliveries is owed anew from now on.
pub(super) const DROP_BODIES: &str =
    concat!("UPDATE messages SET thin = NULL, full_body = NULL WHERE ", is_its_message!());

/// Nothing goes out whose bytes are gone. One that a process is just sending counts no more.
pub(super) const CANCEL_DELIVERIES: &str = concat!(
    "UPDATE deliveries
    SET state = 'cancelled', cause = 'session_erased', finished_at = $2, process_id = NULL
    WHERE state = 'pending'
      AND message_row IN (SELECT row_id FROM messages WHERE ",
    is_its_message!(),
    ")"
);

/// An open failure of a session that is gone can never be replayed.
pub(super) const DROP_RAW: &str = "UPDATE failures
    SET raw = $3, headers = NULL, raw_expired_at = COALESCE(raw_expired_at, $2),
        closed_at = CASE state WHEN 'open' THEN $2 ELSE closed_at END,
        closed_by = CASE state WHEN 'open' THEN 'erasure' ELSE closed_by END,
        state = CASE state WHEN 'open' THEN 'discarded' ELSE state END
    WHERE session_id = $1";

/// What has no other arguments than the session.
pub(super) const DROP_REST: [&str; 4] = [
    "DELETE FROM sessions WHERE session_id = $1",
    "DELETE FROM checkpoints WHERE session_id = $1",
    "DELETE FROM finished_rooms WHERE session_id = $1",
    concat!(
        "UPDATE attempts SET response_head = NULL, response_body = NULL
    WHERE delivery_id IN (
        SELECT delivery_id FROM deliveries
        WHERE message_row IN (SELECT row_id FROM messages WHERE ",
        is_its_message!(),
        "))"
    ),
];

/// What a store brings for erasing; both databases have the same statements. `ADD_ERASED` alone
/// differs.
macro_rules! impl_erase {
    ($store:ty) => {
        impl $store {
            async fn erase_session(
                &self,
                session_id: Uuid,
                place: &str,
                now: DateTime<Utc>,
            ) -> Result<Option<Vec<String>>, StoreError> {
                let mut tx = Writing(self.begin().await?);
                let keys = erase::session_keys(session_id);
                let Some(session) = tx.sessions(&keys, WhenLocked::Wait).await?.pop() else {
                    let files: Option<String> = query_scalar(erase::FILES)
                        .bind(session_id)
                        .fetch_optional(&mut *tx.0)
                        .await
                        .map_err(failed)?;
                    return files.map(|json| erase::files(&json)).transpose();
                };
                let found = tx.egresses(&erase::egress_keys(&session)).await?;
                let (egresses, others): (Vec<_>, Vec<_>) =
                    found.into_iter().partition(|egress| erase::is_of(egress, &session));
                let files = recording_files(&session, &egresses, place);
                query(ADD_ERASED)
                    .bind(session_id)
                    .bind(session.id)
                    .bind(session.character_owner)
                    .bind(erase::digests(&session))
                    .bind(erase::files_json(&files))
                    .bind(now)
                    .execute(&mut *tx.0)
                    .await
                    .map_err(failed)?;
                tx.erase_egresses(&session, &egresses, &others).await?;
                tx.erase_rest(session_id, now).await?;
                Box::new(tx).commit().await?;
                Ok(Some(files))
            }

            async fn keep_erased_files(
                &self,
                session_id: Uuid,
                files: &[String],
            ) -> Result<(), StoreError> {
                query(erase::KEEP_FILES)
                    .bind(session_id)
                    .bind(erase::files_json(files))
                    .execute(&self.writer)
                    .await
                    .map_err(failed)?;
                Ok(())
            }
        }

        impl Writing {
            async fn erase_egresses(
                &mut self,
                session: &Session,
                egresses: &[JoinedEgress],
                others: &[JoinedEgress],
            ) -> Result<(), StoreError> {
                let mut all: Vec<&String> =
                    egresses.iter().map(|row| &row.egress.egress_id).collect();
                // The recording that it names may be another session's.
                if let Some(named) = &session.recording_egress_id
                    && others.iter().all(|row| row.egress.egress_id != *named)
                {
                    let other: Option<i64> = query_scalar(erase::NAMED_BY_ANOTHER)
                        .bind(named)
                        .bind(session.session_id)
                        .fetch_optional(&mut *self.0)
                        .await
                        .map_err(failed)?;
                    all.extend(other.is_none().then_some(named));
                }
                for egress_id in all {
                    query(erase::ADD_ERASED_EGRESS)
                        .bind(egress_id)
                        .bind(session.session_id)
                        .execute(&mut *self.0)
                        .await
                        .map_err(failed)?;
                    query(erase::DROP_EGRESS)
                        .bind(egress_id)
                        .execute(&mut *self.0)
                        .await
                        .map_err(failed)?;
                }
                Ok(())
            }

            async fn erase_rest(
                &mut self,
                session_id: Uuid,
                now: DateTime<Utc>,
            ) -> Result<(), StoreError> {
                query(erase::DROP_BODIES)
                    .bind(session_id)
                    .execute(&mut *self.0)
                    .await
                    .map_err(failed)?;
                query(erase::CANCEL_DELIVERIES)
                    .bind(session_id)
                    .bind(now)
                    .execute(&mut *self.0)
                    .await
                    .map_err(failed)?;
                for statement in erase::DROP_REST {
                    query(statement)
                        .bind(session_id)
                        .execute(&mut *self.0)
                        .await
                        .map_err(failed)?;
                }
                query(erase::DROP_RAW)
                    .bind(session_id)
                    .bind(now)
                    .bind(Vec::<u8>::new())
                    .execute(&mut *self.0)
                    .await
                    .map_err(failed)?;
                Ok(())
            }
        }
    };
}

pub(super) use impl_erase;
