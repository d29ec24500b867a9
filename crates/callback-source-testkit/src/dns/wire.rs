use hickory_proto::{
    ProtoError,
    op::{EmitAndCount, Message, emit_message_parts},
    rr::{Name, Record},
    serialize::binary::{BinEncodable, BinEncoder},
};

use super::Reply;

/// Encodes the message. If it exceeds `limit` bytes, the records beyond the limit are omitted and the message is marked
/// as truncated.
pub(super) fn encode(message: &Message, limit: u16) -> Reply {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit.saturating_sub(OPT_LENGTH));
    let question = message.queries.first().map(|query| &query.name);
    let answers: Vec<_> = message
        .answers
        .iter()
        .map(|record| Answer { record, question })
        .collect();
    let written = emit_message_parts(
        &message.metadata,
        &mut message.queries.iter(),
        &mut answers.iter(),
        &mut message.authorities.iter(),
        &mut RoomForOpt(limit),
        message.edns.as_ref(),
        None,
        &mut encoder,
    );
    // Removes the bytes of a record that was written only in part.
    encoder.trim();
    match written {
        Ok(_) => Reply::Send(bytes),
        Err(_) => Reply::Nothing,
    }
}

/// Returns the id of the request, followed by bytes that are not a message.
pub(super) fn garbage(request: &Message) -> Vec<u8> {
    let mut bytes = request.metadata.id.to_be_bytes().to_vec();
    bytes.resize(31, 0xff);
    bytes
}

/// A record of the answer section. An owner that equals the name in question is written as a pointer.
///
/// hickory compresses only the first 120 names of a message. 4,000 addresses fit into 64 KiB only if every owner is
/// compressed.
struct Answer<'a> {
    record: &'a Record,
    question: Option<&'a Name>,
}

impl BinEncodable for Answer<'_> {
    fn emit(&self, encoder: &mut BinEncoder<'_>) -> Result<(), ProtoError> {
        if self.question != Some(&self.record.name) {
            return self.record.emit(encoder);
        }
        encoder.emit_u16(POINTER_TO_QUESTION)?;
        self.record.record_type().emit(encoder)?;
        self.record.dns_class.emit(encoder)?;
        encoder.emit_u32(self.record.ttl)?;
        let length = encoder.place::<u16>()?;
        self.record.data.emit(encoder)?;
        // The encoder rejects a message longer than 65,535 bytes, so the length fits into 16 bits.
        let written = encoder.len_since_place(&length) as u16;
        length.replace(encoder, written)
    }
}

/// An empty additional section. It releases the bytes that are reserved for the OPT record, which follows even in a
/// truncated answer.
struct RoomForOpt(u16);

impl EmitAndCount for RoomForOpt {
    fn emit(&mut self, encoder: &mut BinEncoder<'_>) -> Result<usize, ProtoError> {
        encoder.set_max_size(self.0);
        Ok(0)
    }
}

/// Length of an OPT record without options (RFC 6891, 6.1.2).
const OPT_LENGTH: u16 = 11;

/// Pointer to the first question, which follows the header of 12 bytes (RFC 1035, 4.1.4).
const POINTER_TO_QUESTION: u16 = 0xc00c;
