# What a solve did: counted where it happens, read by `border.jl`.

"""
    Tally()

Counts and times of one solve. `recording` says whether times are kept; counts always are.
"""
mutable struct Tally
    recording::Bool
    nf::Int
    nvjp::Int
    accepted::Int
    rejected::Int
    "Of the last attempted step: its start, its length, the norm of its error."
    t::Float64
    dt::Float64
    error_norm::Float64
    "Where the last accepted step ended."
    reached::Float64
    evaluation_times::Vector{Float64}
    step_times::Vector{Float64}
    step_sizes::Vector{Float64}
    rejected_times::Vector{Float64}
end

Tally(recording = false) = Tally(
    recording, 0, 0, 0, 0, NaN, NaN, NaN, NaN, Float64[], Float64[], Float64[], Float64[]
)

function reset!(tally::Tally, recording)
    tally.recording = recording
    tally.nf = tally.nvjp = tally.accepted = tally.rejected = 0
    tally.t = tally.dt = tally.error_norm = tally.reached = NaN
    foreach(empty!, (tally.evaluation_times, tally.step_times, tally.step_sizes, tally.rejected_times))
    return tally
end

function count_evaluation!(tally::Tally, t)
    tally.nf += 1
    tally.recording && push!(tally.evaluation_times, t)
    return nothing
end

function count_accepted!(tally::Tally, from, to)
    tally.accepted += 1
    tally.reached = to
    tally.recording || return nothing
    push!(tally.step_times, from)
    push!(tally.step_sizes, abs(to - from))
    return nothing
end

function count_rejected!(tally::Tally, t)
    tally.rejected += 1
    tally.recording && push!(tally.rejected_times, t)
    return nothing
end

function note_attempt!(tally::Tally, t, dt, error_norm)
    tally.t, tally.dt, tally.error_norm = t, dt, error_norm
    return nothing
end

"""
Take the counts from a solution's own statistics where no step was noted: the BDF methods ask
no controller. When these steps were made is not known.
"""
function count_unnoted!(tally::Tally, solution)
    tally.accepted + tally.rejected == 0 || return nothing
    tally.accepted, tally.rejected = solution.stats.naccept, solution.stats.nreject
    return nothing
end
