/**
 * `/v1/keys/rotations`: a new generation of signing keys, which two persons agree on. Whoever holds the signer's lease carries it out
 * (signer/signer.ts).
 */

import type { FastifyInstance, FastifyRequest } from 'fastify';
import { validatePath, validateQuery } from '../http/api-schema.ts';
import type { Decision as DecisionRequest, Rotation, RotationRequest } from '../http/api-types.ts';
import { instantText } from '../http/instant-text.ts';
import { type ReadJson, readAsked } from '../http/read-asked.ts';
import type { Decision, StoredProposal } from '../store/proposals.ts';
import { generationOf, ROTATION } from '../store/proposals.ts';
import { decide, pageOfProposals, propose, readProposal, type TwoPersonsDeps } from './two-persons.ts';

export interface RotationDeps extends TwoPersonsDeps {
  readonly readJson: ReadJson;
}

const PATH = '/v1/keys/rotations';
const BODY_BYTES_MAX = 8192;

export function rotationRoutes({ readJson, ...deps }: RotationDeps) {
  const read = { permission: 'rotations:read' } as const;
  const write = {
    permission: 'rotations:write',
    body: { types: ['application/json'], limit: BODY_BYTES_MAX },
  } as const;

  return async function rotations(app: FastifyInstance): Promise<void> {
    app.post(PATH, { config: write }, async (request, reply) => {
      validateQuery('proposeRotation', request.query);
      const { reason } = readAsked<RotationRequest>(readJson, request, 'RotationRequest');
      const proposal = await propose(deps, request, { kind: ROTATION, request: {}, reason });
      return reply.code(201).header('location', `${PATH}/${proposal.id}`).send(rotationView(proposal));
    });

    app.get(PATH, { config: read }, async (request) => {
      const { limit, cursor } = validateQuery('listRotations', request.query);
      const { page, next } = await pageOfProposals(deps, request, ROTATION, { limit, cursor });
      return { items: page.map(rotationView), next };
    });

    app.get(`${PATH}/:id`, { config: read }, async (request) => {
      const { id } = validatePath('readRotation', request.params);
      validateQuery('readRotation', request.query);
      return rotationView(await readProposal(deps, request, { kind: ROTATION, id }));
    });

    const decision = (operation: 'approveRotation' | 'rejectRotation' | 'withdrawRotation', state: Decision) => {
      return async (request: FastifyRequest): Promise<Rotation> => {
        const { id } = validatePath(operation, request.params);
        validateQuery(operation, request.query);
        const { reason } = readAsked<DecisionRequest>(readJson, request, 'Decision');
        return rotationView(await decide(deps, request, { kind: ROTATION, id }, state, reason));
      };
    };
    app.post(`${PATH}/:id/approve`, { config: write }, decision('approveRotation', 'approved'));
    app.post(`${PATH}/:id/reject`, { config: write }, decision('rejectRotation', 'rejected'));
    app.post(`${PATH}/:id/withdraw`, { config: write }, decision('withdrawRotation', 'withdrawn'));
  };
}

function rotationView(proposal: StoredProposal): Rotation {
  const { id, state, reason, proposedBy, decidedBy, decisionReason, error } = proposal;
  return {
    ...{ id, state, reason, proposedBy },
    proposedAt: instantText(proposal.proposedAt),
    expiresAt: instantText(proposal.expiresAt),
    decidedBy,
    decidedAt: instantText(proposal.decidedAt),
    decisionReason,
    doneAt: instantText(proposal.doneAt),
    generation: generationOf(proposal.plan) ?? null,
    error,
  };
}
