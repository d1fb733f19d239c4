// The header in C++17: handles with owners, and errors as exceptions.
#include <agentmem.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

template <auto free>
struct Free {
    template <typename T>
    void operator()(T *handle) const { free(handle); }
};

template <typename T, auto free>
using Owner = std::unique_ptr<T, Free<free>>;
using Store = Owner<agentmem_store, agentmem_store_free>;
using Agent = Owner<agentmem_agent, agentmem_agent_free>;
using Smu = Owner<agentmem_smu, agentmem_smu_free>;
using View = Owner<agentmem_view, agentmem_view_free>;

void check(bool holds, const char *what)
{
    if (!holds) {
        std::fprintf(stderr, "not so: %s\n", what);
        std::exit(1);
    }
}

void succeed(int answered)
{
    if (answered != AGENTMEM_OK) {
        throw std::runtime_error(agentmem_error_text());
    }
}

Store open_store()
{
    agentmem_options options;
    succeed(agentmem_options_init(&options, sizeof options));
    options.memory_max_bytes = 64u << 20;
    agentmem_store *store = nullptr;
    succeed(agentmem_store_open(&options, &store));
    return Store(store);
}

Agent open_agent(const Store &store, const char *name)
{
    agentmem_agent *agent = nullptr;
    succeed(agentmem_agent_open(store.get(), name, AGENTMEM_AS_IT_IS, AGENTMEM_NONE, 0, &agent));
    return Agent(agent);
}

Smu put(const Agent &agent, std::string_view content)
{
    agentmem_smu *smu = nullptr;
    succeed(agentmem_agent_put(agent.get(), content.data(), content.size(), AGENTMEM_SYSTEM_PROMPT, nullptr,
                               AGENTMEM_IMPORTANCE, &smu));
    return Smu(smu);
}

std::string read(const Smu &smu)
{
    agentmem_view *given = nullptr;
    succeed(agentmem_smu_view(smu.get(), &given));
    View view(given);
    const void *bytes = nullptr;
    std::size_t len = 0;
    succeed(agentmem_view_bytes(view.get(), &bytes, &len));
    return std::string(static_cast<const char *>(bytes), len);
}

}  // namespace

int main()
{
    Store store = open_store();
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; i++) {
        threads.emplace_back([&store, i] {
            Agent agent = open_agent(store, ("agent " + std::to_string(i)).c_str());
            for (int round = 0; round < 500; round++) {
                std::string content = "content " + std::to_string(round);
                check(read(put(agent, content)) == content, "what was put is read");
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    try {
        open_agent(store, nullptr);
        check(false, "an agent has a name");
    } catch (const std::runtime_error &error) {
        check(std::string_view(error.what()).find("name is NULL") == 0, error.what());
    }
    check(agentmem_error_errno(AGENTMEM_ERROR_INVALID_ARGUMENT) == 22, "EINVAL");
    return 0;
}
