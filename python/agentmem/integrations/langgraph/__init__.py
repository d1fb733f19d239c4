"""What LangGraph keeps, kept in a store: a saver of checkpoints."""

from agentmem.integrations.langgraph.saver import AgentMemSaver

__all__ = ["AgentMemSaver"]
