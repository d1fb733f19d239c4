/** Figures. Bytes, unless the name says otherwise. */

import type { AgentState } from "./agent";
import type { Kind, Tier } from "./smu";

/** Of one kind of content. */
export interface KindStats {
  /** Contents or messages held. */
  count: number;
  /** What agents believe they hold. */
  logicalBytes: number;
  /** After sharing and codec. */
  storedBytes: number;
  /** Put since the store was opened. */
  putBytes: number;
  /** Of these, what was there already. */
  duplicateBytes: number;
}

/** Of a whole store. */
export interface Stats {
  agents: number;
  smus: number;
  conversations: number;
  messages: number;
  frames: number;
  /** What agents believe they hold. */
  logicalBytes: number;
  /** After sharing and codec. */
  storedBytes: number;
  /** What the engine accounts against its budget. */
  residentBytes: number;
  /** Of that, what the kernel module holds. */
  moduleBytes: number;
  hotBytes: number;
  warmBytes: number;
  coldBytes: number;
  /** Blocks allocated on SSD. */
  diskBytes: number;
  /** Records that no index named when the store was opened, given back then. */
  orphanBytes: number;
  tableBytes: number;
  arenaBytes: number;
  /** Held by two agents or more, each content once. */
  sharedBytes: number;
  /** Logical bytes without stored bytes. */
  savedBytes: number;
  pinnedBytes: number;
  byKind: Record<Kind, KindStats>;
  byTier: Record<Exclude<Tier, "remote">, { count: number; bytes: number }>;
  /** How often what happened: `put_shared`, `refault_warm` and others. */
  counters: Record<string, number>;
  policy: string;
  /** What holds sealed SMUs of a page or more. */
  backend: "user" | "kernel";
}

/** Of one agent. */
export interface AgentStats {
  name: string;
  /** 0 while nobody has taken it up. */
  pid: number;
  state: AgentState;
  importance: number;
  quotaBytes: number | null;
  /** Unix milliseconds. */
  createdMs: number;
  /** Unix milliseconds. */
  lastActiveMs: number;
  smus: number;
  conversations: number;
  messages: number;
  logicalBytes: number;
  hotBytes: number;
  storedBytes: number;
  sharedBytes: number;
}

/** Of one agent, and where what it holds is. Shared content counts in full for each that holds it. */
export interface AgentStatsByTier extends AgentStats {
  /** Compressed in RAM. */
  warmBytes: number;
  /** On SSD. */
  coldBytes: number;
  /** Raw, in conversations. */
  tailBytes: number;
}

/** Of a trust domain, all its agents together. */
export interface DomainStats {
  /** Empty for the user's own. */
  name: string;
  /** What its agents are charged for. */
  logicalBytes: number;
  /** null: no limit. */
  quotaBytes: number | null;
  agents: number;
  /** null: no limit. */
  agentsMax: number | null;
}

/** What another trust domain may copy. */
export interface Grant {
  /** Names it, and does not redeem it. */
  id: string;
  /** Who granted it. */
  agent: string;
  /** Who may redeem it; null: the user's own domain. */
  toDomain: string | null;
  /** Id of the SMU here. */
  content: string;
  kind: Kind;
  logicalBytes: number;
  /** How often it can still be redeemed. */
  uses: number;
  /** Unix milliseconds. */
  createdMs: number;
  /** Unix milliseconds. */
  expiresMs: number;
}

/** What a look at everything found. */
export interface Verification {
  frames: number;
  smus: number;
  messages: number;
  bytes: number;
  orphans: number;
  /** Each SMU, conversation or frame that is hurt, in words. */
  damaged: string[];
}

/** One frame, in which compressed content is kept. */
export interface FrameDescription {
  number: number;
  /** null where it cannot be read. */
  codec: string | null;
  logicalBytes: number;
  storedBytes: number;
  items: number;
  inRam: boolean;
  onSsd: boolean;
  /** Since it was made, or the store opened. */
  ageMs: number;
}

/** One content, whoever holds it. */
export interface SmuDescription {
  id: string;
  kind: Kind;
  names: string[];
  importance: number;
  logicalBytes: number;
  storedBytes: number;
  tier: Tier;
  pinned: boolean;
  sharedBy: number;
  /** Up to 1,000 agents, and how many references each has. */
  holders: Record<string, number>;
  /** Since it was last seen used. */
  unusedMs: number;
  /** Up to 1,000. */
  frames: FrameDescription[];
}

/** One conversation, whoever holds it. */
export interface ConversationDescription {
  agent: string;
  conversation: string;
  number: number;
  kind: "conversation";
  messages: number;
  logicalBytes: number;
  storedBytes: number;
  /** Raw. */
  tailBytes: number;
  /** Since it was last seen used. */
  unusedMs: number;
  /** Up to 1,000. */
  frames: FrameDescription[];
}
