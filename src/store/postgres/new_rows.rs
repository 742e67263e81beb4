//! The rows that are written all the time: a batch of them is bound as one array, of a type that a
//! migration makes (`0015_rows.sql`).
//!
//! sqlx derives the same, with the encoder that its documentation hides, for structs whose fields are the
//! columns. These are none: they would be copied into such structs first.

use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::types::PgRecordEncoder;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, Postgres as Db};
use sqlx::types::Type;

use super::number;
use crate::finalize::Session;
use crate::store::transaction::{DeliveryToKeep, MessageToKeep};
use crate::store::{AttemptResult, DeliveryState};

/// The rows as one value.
pub(super) fn rows<T: Columns>(of: &[T]) -> Vec<Row<'_, T>> {
    of.iter().map(Row).collect()
}

/// What a type of rows is made of.
pub(super) trait Columns {
    /// The type's name in the database.
    const TYPE: &'static str;

    /// Writes all of its columns, in the type's order: the one in which the statement that inserts them
    /// names the table's columns, if it selects all.
    fn write(&self, row: &mut PgRecordEncoder<'_>) -> Result<(), BoxDynError>;
}

/// One of them.
pub(super) struct Row<'a, T>(&'a T);

impl<T: Columns> Type<Db> for Row<'_, T> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name(T::TYPE)
    }
}

impl<T: Columns> PgHasArrayType for Row<'_, T> {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::array_of(T::TYPE)
    }
}

impl<T: Columns> Encode<'_, Db> for Row<'_, T> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let mut row = PgRecordEncoder::new(buffer);
        self.0.write(&mut row)?;
        row.finish();
        Ok(IsNull::No)
    }
}

impl Columns for Session {
    const TYPE: &'static str = "new_session";

    fn write(&self, row: &mut PgRecordEncoder<'_>) -> Result<(), BoxDynError> {
        row.encode(self.session_id)?
            .encode(self.id)?
            .encode(self.tenant_id.as_str())?
            .encode(self.character_slug.as_str())?
            .encode(self.character_owner)?
            .encode(self.user)?
            .encode(self.room_id.as_deref())?
            .encode(self.room_name.as_deref())?
            .encode(self.origin_url.as_deref())?
            .encode(self.metadata.as_str())?
            .encode(self.started_at)?
            .encode(self.ended_at)?
            .encode(self.close_reason.as_deref())?
            .encode(self.duration_ms)?
            .encode(self.turn_count)?
            .encode(self.interruption_count)?
            .encode(self.llm_input_tokens)?
            .encode(self.llm_output_tokens)?
            .encode(self.llm_model.as_deref())?
            .encode(self.llm_provider.as_deref())?
            .encode(self.stt_audio_ms)?
            .encode(self.stt_provider.as_deref())?
            .encode(self.tts_characters)?
            .encode(self.tts_provider.as_deref())?
            .encode(self.cost_micros)?
            .encode(self.cost_breakdown.as_str())?
            .encode(self.usage.as_str())?
            .encode(self.transcript.as_str())?
            .encode(self.recording_expected)?
            .encode(self.recording_egress_id.as_deref())?
            .encode(self.recording_worker_url.as_deref())?
            .encode(self.is_recording_found)?
            .encode(self.is_recording_given_up)?
            .encode(self.recording.status.as_str())?
            .encode(self.recording.url.as_deref())?
            .encode(self.recording.offset_ms)?
            .encode(self.finalized_at)?
            .encode(self.revision)?
            .encode(self.version)?
            .encode(&self.digest[..])?
            .encode(self.superseded.concat())?
            .encode(self.heard_at)?
            .encode(self.checkpoint_sequence)?;
        Ok(())
    }
}

impl Columns for MessageToKeep<'_> {
    const TYPE: &'static str = "new_message";

    fn write(&self, row: &mut PgRecordEncoder<'_>) -> Result<(), BoxDynError> {
        let message = self.message;
        row.encode(self.row_id)?
            .encode(&message.message_id.0[..])?
            .encode(message.event_type.as_str())?
            .encode(message.session_id)?
            .encode(message.session_number)?
            .encode(message.egress_id.as_deref())?
            .encode(message.thin.as_deref())?
            .encode(message.full.as_deref())?
            .encode(message.trace.map(|trace| trace.to_string()))?;
        Ok(())
    }
}

impl Columns for DeliveryToKeep {
    const TYPE: &'static str = "new_delivery";

    fn write(&self, row: &mut PgRecordEncoder<'_>) -> Result<(), BoxDynError> {
        row.encode(self.delivery_id)?
            .encode(self.message_row)?
            .encode(self.endpoint_id)?
            .encode(self.payload.as_str())?
            .encode(self.state().as_str())?
            .encode(self.cause())?
            .encode(self.process_id)?
            .encode(self.is_cancelled)?
            .encode(self.redelivered_after())?;
        Ok(())
    }
}

impl Columns for AttemptResult {
    const TYPE: &'static str = "new_result";

    fn write(&self, row: &mut PgRecordEncoder<'_>) -> Result<(), BoxDynError> {
        let (state, next_attempt_at) = self.next.as_row();
        let is_final = state != DeliveryState::Pending;
        let attempt = &self.attempt;
        row.encode(self.delivery_id)?
            .encode(state.as_str())?
            .encode(self.next.cause())?
            .encode(next_attempt_at)?
            .encode(is_final.then(|| attempt.finished_at()))?
            .encode(number(attempt.number))?
            .encode(attempt.started_at)?
            .encode(attempt.duration_us)?
            .encode(attempt.status.map(i32::from))?
            .encode(attempt.error.as_deref())?
            .encode(attempt.response_head.as_deref())?
            .encode(&attempt.response_body[..])?
            .encode(attempt.address.as_deref())?
            .encode(attempt.is_connection_reused)?;
        Ok(())
    }
}
