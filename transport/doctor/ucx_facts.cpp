#include <ucp/api/ucp.h>
#include <ucs/config/global_opts.h>
#include <uct/api/uct.h>

#include <memory>
#include <span>

#include "base/freer.h"
#include "transport/doctor/facts.h"
#include "transport/ucx/load_ucx.h"

namespace weightcast::transport::doctor {
namespace {

using MemoryDomain = std::unique_ptr<::uct_md, Freer<::uct_md_close>>;

MemoryDomain open_domain(::uct_component_h component, const char* name) {
    ::uct_md_config_t* config = nullptr;
    if (::uct_md_config_read(component, nullptr, nullptr, &config) != UCS_OK) return nullptr;
    ::uct_md_h domain = nullptr;
    const bool opened = ::uct_md_open(component, name, config, &domain) == UCS_OK;
    ::uct_config_release(config);
    return MemoryDomain(opened ? domain : nullptr);
}

void add_transports(::uct_component_h component, std::vector<std::string>& transports) {
    ::uct_component_attr_t attributes{};
    attributes.field_mask = UCT_COMPONENT_ATTR_FIELD_MD_RESOURCE_COUNT;
    if (::uct_component_query(component, &attributes) != UCS_OK) return;
    std::vector<::uct_md_resource_desc_t> domains(attributes.md_resource_count);
    if (domains.empty()) return;
    attributes.field_mask = UCT_COMPONENT_ATTR_FIELD_MD_RESOURCES;
    attributes.md_resources = domains.data();
    if (::uct_component_query(component, &attributes) != UCS_OK) return;
    for (const ::uct_md_resource_desc_t& one : domains) {
        const MemoryDomain domain = open_domain(component, one.md_name);
        ::uct_tl_resource_desc_t* list = nullptr;
        unsigned count = 0;
        if (!domain || ::uct_md_query_tl_resources(domain.get(), &list, &count) != UCS_OK) continue;
        for (const ::uct_tl_resource_desc_t& transport : std::span(list, count)) {
            transports.push_back(std::string(transport.tl_name) + "/" + transport.dev_name);
        }
        ::uct_release_tl_resource_list(list);
    }
}

}  // namespace

UcxFacts gather_ucx() {
    UcxFacts facts;
    if (auto loaded = ucx::load(); !loaded) {
        facts.why_none = std::move(loaded).error().message;
        return facts;
    }
    ::ucs_global_opts_set_value("LOG_LEVEL", "fatal");  // it tells what it lacks on stderr
    facts.version = ::ucp_get_version_string();
    ::uct_component_h* components = nullptr;
    unsigned count = 0;
    if (::uct_query_components(&components, &count) != UCS_OK) return facts;
    for (::uct_component_h component : std::span(components, count)) {
        add_transports(component, facts.transports);
    }
    ::uct_release_component_list(components);
    return facts;
}

}  // namespace weightcast::transport::doctor
