//! Frames by which cores agree on who keeps a shard: CLAIMS, and the two steps of a SYNC that name shards, OFFERED and
//! COMPARED (`docs/peer-protocol.md`, section 5). Lists have their number in front, and no more than fits into the frame.

use super::LinkError;
use super::fields::Reader;
use super::kind;
use crate::frame::payload::Writer;
use crate::id::{ExecutorId, NodeId, Slot};
use crate::peer::{Claim, Claims, Standing};
use crate::placement::REPLICAS_MAX;

/// Shard, standing and number of replicas.
const CLAIM_BYTES_MIN: usize = 4 + 1 + 1;

const STANDINGS: [Standing; 6] = [
    Standing::Outside,
    Standing::Handing,
    Standing::Leaving,
    Standing::Joining,
    Standing::Unsettled,
    Standing::Settled,
];

/// Executor, round and shards of OFFERED and COMPARED.
type Step<S> = (ExecutorId, u32, S);

pub(super) fn encode(claims: &Claims, out: &mut Vec<u8>) {
    let mut writer = Writer::new(out, kind::CLAIMS)
        .u16(claims.executor.0)
        .u16(claims.executors)
        .u32(claims.round)
        .u8(claims.asks.into())
        .u32(claims.claims.len() as u32);
    for claim in &claims.claims {
        assert!(claim.replicas.len() <= REPLICAS_MAX, "{} replicas of a shard", claim.replicas.len());
        writer = writer.u32(claim.shard).u8(claim.standing as u8).u8(claim.replicas.len() as u8);
        writer = claim.replicas.iter().fold(writer, |writer, node| writer.u32(node.0));
    }
    writer.end();
}

pub(super) fn decode(payload: &[u8]) -> Result<Claims, LinkError> {
    let mut reader = Reader::new("CLAIMS", payload);
    let (executor, executors) = (reader.executor("executor")?, reader.u16("executors")?);
    let (round, asks) = (reader.u32("round")?, reader.flag("asks")?);
    let count = counted(&mut reader, "claims", CLAIM_BYTES_MIN)?;
    let claims = (0..count).map(|_| decode_claim(&mut reader)).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(Claims { executor, executors, round, asks, claims })
}

fn decode_claim(reader: &mut Reader<'_>) -> Result<Claim, LinkError> {
    let (shard, standing, nodes) = (reader.u32("shard")?, reader.u8("standing")?, reader.u8("replicas")?);
    let standing = *STANDINGS.get(usize::from(standing)).ok_or_else(|| reader.bad("standing", u64::from(standing)))?;
    if usize::from(nodes) > REPLICAS_MAX {
        return Err(reader.bad("replicas", u64::from(nodes)));
    }
    let replicas = (0..nodes).map(|_| reader.node("replica")).collect::<Result<Vec<NodeId>, _>>()?;
    Ok(Claim { shard, replicas, standing })
}

pub(super) fn encode_step(kind: u8, slot: Slot, (executor, round, shards): Step<&[u32]>, out: &mut Vec<u8>) {
    let writer = Writer::new(out, kind).u32(slot.0).u16(executor.0).u32(round).u32(shards.len() as u32);
    shards.iter().fold(writer, |writer, shard| writer.u32(*shard)).end();
}

pub(super) fn decode_step(frame: &'static str, payload: &[u8]) -> Result<(Slot, Step<Vec<u32>>), LinkError> {
    let mut reader = Reader::new(frame, payload);
    let (slot, executor, round) = (reader.slot()?, reader.executor("executor")?, reader.u32("round")?);
    let count = counted(&mut reader, "shards", 4)?;
    let shards = (0..count).map(|_| reader.u32("shard")).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok((slot, (executor, round, shards)))
}

/// The number of a list whose items have at least so many bytes: nothing is reserved for what is not there.
fn counted(reader: &mut Reader<'_>, field: &'static str, bytes_min: usize) -> Result<usize, LinkError> {
    let count = reader.u32(field)? as usize;
    if count > reader.left() / bytes_min {
        return Err(reader.truncated(field));
    }
    Ok(count)
}
