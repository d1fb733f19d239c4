"""What LangGraph keeps, kept in a store: checkpoints, long-term items, and what nodes returned.

import agentmem
from agentmem.integrations.langgraph import AgentMemSaver
from langgraph.graph import START, MessagesState, StateGraph

with agentmem.open("state/") as mem:  # or agentmem.connect(), to share with other processes
    builder = StateGraph(MessagesState)
    builder.add_node("echo", lambda state: {"messages": [("ai", state["messages"][-1].content)]})
    builder.add_edge(START, "echo")
    graph = builder.compile(checkpointer=AgentMemSaver(mem))
    said = graph.invoke({"messages": [("user", "Hello")]}, {"configurable": {"thread_id": "1"}})
    print(said["messages"][-1].content)
"""

from agentmem.integrations.langgraph.cache import AgentMemCache
from agentmem.integrations.langgraph.items import AgentMemStore
from agentmem.integrations.langgraph.saver import AgentMemSaver

__all__ = ["AgentMemCache", "AgentMemSaver", "AgentMemStore"]
