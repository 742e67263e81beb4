//! Events on their own feet, free of the bytes they were read from.

use super::{
    Call, Envelope, Event, Identity, Message, Model, RecordingRequest, RecordingUpdated,
    RoomFinished, SessionCheckpoint, SessionEnded, SessionStarted, Text, UsageEntry,
};

impl Event<'_> {
    /// The event with its texts copied.
    #[must_use]
    pub fn into_owned(self) -> Event<'static> {
        match self {
            Self::Started(started) => Event::Started(started.into_owned()),
            Self::Checkpoint(checkpoint) => Event::Checkpoint(Box::new(checkpoint.into_owned())),
            Self::Ended(ended) => Event::Ended(Box::new(ended.into_owned())),
            Self::Recording(recording) => Event::Recording(Box::new(recording.into_owned())),
            Self::Room(room) => Event::Room(room.into_owned()),
        }
    }
}

impl Text<'_> {
    fn into_owned(self) -> Text<'static> {
        Text::from(self.0.into_owned())
    }
}

impl Envelope<'_> {
    fn into_owned(self) -> Envelope<'static> {
        let Self { event_id, occurred_at } = self;
        Envelope { event_id: event_id.into_owned(), occurred_at }
    }
}

impl SessionStarted<'_> {
    fn into_owned(self) -> SessionStarted<'static> {
        let Self { envelope, identity, started_at, digest } = self;
        SessionStarted {
            envelope: envelope.into_owned(),
            identity: identity.into_owned(),
            started_at,
            digest,
        }
    }
}

impl SessionCheckpoint<'_> {
    fn into_owned(self) -> SessionCheckpoint<'static> {
        let Self { sequence, so_far } = self;
        SessionCheckpoint { sequence, so_far: so_far.into_owned() }
    }
}

impl RoomFinished<'_> {
    fn into_owned(self) -> RoomFinished<'static> {
        let Self { envelope, session_id, room_id, room_name, finished_at, digest } = self;
        RoomFinished {
            envelope: envelope.into_owned(),
            session_id,
            room_id: room_id.map(Text::into_owned),
            room_name: room_name.map(Text::into_owned),
            finished_at,
            digest,
        }
    }
}

impl SessionEnded<'_> {
    fn into_owned(self) -> SessionEnded<'static> {
        let Self { envelope, digest, call } = self;
        SessionEnded { envelope: envelope.into_owned(), digest, call: call.into_owned() }
    }
}

impl RecordingUpdated<'_> {
    fn into_owned(self) -> RecordingUpdated<'static> {
        let Self { envelope, session_id, egress } = self;
        RecordingUpdated { envelope: envelope.into_owned(), session_id, egress }
    }
}

impl Identity<'_> {
    fn into_owned(self) -> Identity<'static> {
        let Self {
            session_id,
            tenant_id,
            character_slug,
            character_owner,
            user,
            room_name,
            room_id,
            origin_url,
            metadata,
        } = self;
        Identity {
            session_id,
            tenant_id: tenant_id.into_owned(),
            character_slug: character_slug.into_owned(),
            character_owner,
            user,
            room_name: room_name.map(Text::into_owned),
            room_id: room_id.map(Text::into_owned),
            origin_url: origin_url.map(Text::into_owned),
            metadata,
        }
    }
}

impl Call<'_> {
    fn into_owned(self) -> Call<'static> {
        let Self {
            identity,
            started_at,
            ended_at,
            close_reason,
            source,
            messages,
            usage,
            interruption_count,
            report_duration_ms,
            report_timestamp,
            recording,
        } = self;
        Call {
            identity: identity.into_owned(),
            started_at,
            ended_at,
            close_reason: close_reason.map(Text::into_owned),
            source,
            messages: messages.into_iter().map(Message::into_owned).collect(),
            usage: usage.into_iter().map(UsageEntry::into_owned).collect(),
            interruption_count,
            report_duration_ms,
            report_timestamp,
            recording: recording.map(RecordingRequest::into_owned),
        }
    }
}

impl Message<'_> {
    fn into_owned(self) -> Message<'static> {
        let Self {
            id,
            role,
            texts,
            audio_transcripts,
            interrupted,
            created_at,
            started_speaking_at,
            stopped_speaking_at,
            voice,
        } = self;
        Message {
            id: id.map(Text::into_owned),
            role,
            texts: texts.into_iter().map(Text::into_owned).collect(),
            audio_transcripts: audio_transcripts.into_iter().map(Text::into_owned).collect(),
            interrupted,
            created_at,
            started_speaking_at,
            stopped_speaking_at,
            voice: voice.map(Model::into_owned),
        }
    }
}

impl Model<'_> {
    fn into_owned(self) -> Model<'static> {
        let Self { provider, model } = self;
        Model { provider: provider.into_owned(), model: model.into_owned() }
    }
}

impl UsageEntry<'_> {
    fn into_owned(self) -> UsageEntry<'static> {
        let Self { index, kind, model, counts } = self;
        UsageEntry { index, kind: kind.map(Text::into_owned), model: model.into_owned(), counts }
    }
}

impl RecordingRequest<'_> {
    fn into_owned(self) -> RecordingRequest<'static> {
        let Self { expected, egress_id, url } = self;
        RecordingRequest {
            expected,
            egress_id: egress_id.map(Text::into_owned),
            url: url.map(Text::into_owned),
        }
    }
}
