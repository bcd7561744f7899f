/** The measurements, in their order. */
import { brokenSink } from './broken-sink.ts';
import { disk } from './disk.ts';
import { eventSizes } from './event-sizes.ts';
import { exporting } from './export.ts';
import { fairness } from './fairness.ts';
import { growth } from './growth.ts';
import { ingestBatch, ingestSingle } from './ingest.ts';
import type { Measurement } from './measurement.ts';
import { memory } from './memory.ts';
import { pauses } from './pauses.ts';
import { proofs } from './proofs.ts';
import { replicas } from './replicas.ts';
import { tenants } from './tenants.ts';
import { verification } from './verification.ts';

export const SUITE: readonly Measurement[] = [
  // First, into empty tables; what it leaves behind, each event once, is what is verified.
  disk,
  verification,
  ingestBatch,
  ingestSingle,
  exporting,
  proofs,
  brokenSink,
  fairness,
  tenants,
  eventSizes,
  growth,
  replicas,
  pauses,
  memory,
];
