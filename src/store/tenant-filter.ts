/**
 * The application's own filter between tenants. Beneath it row-level security is another, which knows nothing of this one: losing either
 * leaks nothing.
 *
 * What reads for one tenant does so through a kysely with this plugin (`asTenant`), and each table that a statement names becomes
 * `(SELECT * FROM <table> WHERE tenant = <id>)`, which PostgreSQL plans like the table. So no function can forget it. A statement that
 * names a table in a way that the plugin does not see, or one that is of no tenant, is refused before it is sent: in raw SQL a table is
 * written `${sql.table('sealog.block')} AS b`. Of tables with secrets in them it is the columns without.
 */
import assert from 'node:assert/strict';
import {
  AliasNode,
  IdentifierNode,
  type KyselyPlugin,
  type OperationNode,
  OperationNodeTransformer,
  RawNode,
  type TableNode,
  ValueNode,
} from 'kysely';
import type { Tables } from './tables.ts';

const SCHEMA = 'sealog';

/** Has rows of tenants, and no reader sees them (migrations/0009_column_grants.sql, 0011_pruning.sql, 0016_ids_of_blocks.sql). */
type Unread = 'sealog.anchor_leaf' | 'sealog.tenant_setting' | 'sealog.pruning_certificate' | 'sealog.entry_id';
type TableOfTenants =
  | 'sealog.tenant'
  | Exclude<{ [T in keyof Tables]: 'tenant' extends keyof Tables[T] ? T : never }[keyof Tables], Unread>;

/** Functions that answer for the transaction's tenant alone (migrations/0016_ids_of_blocks.sql, 0017_tags_of_blocks.sql). */
const OWN_FUNCTIONS = /\bsealog\.own_(?:places|tagged_blocks)\(/g;

/** Which column of a table says whose a row is. */
export const TENANT_COLUMNS = {
  'sealog.tenant': 'id',
  'sealog.stream': 'tenant',
  'sealog.retention_policy': 'tenant',
  'sealog.data_key': 'tenant',
  'sealog.block': 'tenant',
  'sealog.tile': 'tenant',
  'sealog.tile_edge': 'tenant',
  'sealog.checkpoint': 'tenant',
  'sealog.verification': 'tenant',
  'sealog.api_key': 'tenant',
  'sealog.proposal': 'tenant',
  'sealog.erasure': 'tenant',
  'sealog.erasure_entry': 'tenant',
  'sealog.erased': 'tenant',
  'sealog.hold': 'tenant',
  'sealog.sink': 'tenant',
  'sealog.sink_cursor': 'tenant',
} as const satisfies Record<TableOfTenants, string>;

/** What a reader may read of a table that is not all his to read (migrations/0009_column_grants.sql). */
const OPEN_COLUMNS: { readonly [T in TableOfTenants]?: readonly (keyof Tables[T])[] } = {
  'sealog.data_key': ['id', 'tenant', 'stream', 'drop_month'],
  'sealog.api_key': [
    ...(['id', 'tenant', 'name', 'categories', 'sites', 'created_at', 'created_by', 'expires_at'] as const),
    ...(['rotated_at', 'previous_until', 'revoked_at', 'revoked_by', 'last_used_at'] as const),
  ],
  'sealog.sink': [
    ...(['id', 'tenant', 'name', 'config', 'state', 'revision', 'from_file', 'created_at', 'created_by'] as const),
    ...(['delivered_at', 'failures', 'error', 'error_at', 'retry_at'] as const),
  ],
};

/** Returns the plugin that lets a kysely see the rows of one tenant alone. A statement that it can not hold to them throws a TypeError. */
export function tenantFilter(tenantId: number): KyselyPlugin {
  assert(Number.isSafeInteger(tenantId));
  return {
    // One a statement: the transformer remembers where in the tree it is.
    transformQuery: ({ node }) => new TenantTransformer(tenantId).transformNode(node),
    transformResult: async ({ result }) => result,
  };
}

class TenantTransformer extends OperationNodeTransformer {
  readonly #tenantId: number;

  constructor(tenantId: number) {
    super();
    this.#tenantId = tenantId;
  }

  protected override transformTable(node: TableNode): TableNode {
    const { schema, identifier } = node.table;
    // An alias, which stands for what was filtered where it was given: the search path has no table of ours.
    if (schema === undefined) return node;
    const table = tableOf(`${schema.name}.${identifier.name}`);
    const column = TENANT_COLUMNS[table];
    const rows = RawNode.create(
      [`(SELECT ${OPEN_COLUMNS[table]?.join(', ') ?? '*'} FROM `, ' WHERE ', ' = ', ')'],
      [node, IdentifierNode.create(column), ValueNode.createImmediate(this.#tenantId)],
    );
    switch (this.nodeStack.at(-2)?.kind) {
      // What stands round it names it.
      case 'AliasNode':
      case 'RawNode':
        return inPlaceOfTable(rows);
      case 'FromNode':
      case 'JoinNode':
        return inPlaceOfTable(AliasNode.create(rows, IdentifierNode.create(identifier.name)));
      default:
        throw new TypeError(
          `a statement for a tenant names ${schema.name}.${identifier.name} where it can not be held to it`,
        );
    }
  }

  protected override transformRaw(node: RawNode): RawNode {
    if (node.sqlFragments.some((text) => text.replaceAll(OWN_FUNCTIONS, '').toLowerCase().includes(SCHEMA)))
      throw new TypeError('a raw statement for a tenant names a table itself: write sql.table');
    return super.transformRaw(node);
  }

  protected override transformIdentifier(node: IdentifierNode): IdentifierNode {
    if (node.name === SCHEMA) throw new TypeError('a statement for a tenant names the schema itself: write sql.table');
    return node;
  }
}

function tableOf(name: string): TableOfTenants {
  if (!Object.hasOwn(TENANT_COLUMNS, name)) throw new TypeError(`${name} is not read for one tenant`);
  return name as TableOfTenants;
}

/** The compiler of statements goes by a node's kind; only the type of the method knows tables alone. */
function inPlaceOfTable(node: OperationNode): TableNode {
  return node as unknown as TableNode;
}
