"""What LangGraph keeps, kept in a store: checkpoints, long-term items, and what nodes returned."""

from agentmem.integrations.langgraph.cache import AgentMemCache
from agentmem.integrations.langgraph.items import AgentMemStore
from agentmem.integrations.langgraph.saver import AgentMemSaver

__all__ = ["AgentMemCache", "AgentMemSaver", "AgentMemStore"]
