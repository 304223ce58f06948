using PySemi: Nest, dense_strides, each_row, is_run

# Offsets of all windows at each place that the loops visit, in the order of the visits.
function visits(nest::Nest{K}) where {K}
    found = NTuple{K, Int}[]
    each_row(nest) do offsets
        for i in 0:(nest.sizes[1] - 1)
            push!(found, ntuple(k -> offsets[k] + i * nest.strides[k][1], K))
        end
    end
    return found
end

levels(nest) = count(>(1), nest.sizes)

@testset "a nest visits every element of its windows together, once" begin
    for _ in 1:500
        shape = random_shape()
        windows = [first(random_window(k, shape; repeats = k > 1)) for k in 1:rand(1:4)]
        nest = Nest(windows...)
        # A nest leaves the windows' own offsets to the pointers.
        expected = [
            Tuple(place(w, I) - w.offset for w in windows) for I in CartesianIndices(Tuple(shape))
        ]
        @test sort(visits(nest)) == sort(vec(expected))
        @test levels(nest) <= count(!=(1), shape)
    end
end

@testset "windows without gaps need one loop" begin
    shape = [2, 3, 4]
    dense = Window(1, shape, dense_strides(shape), 0)
    @test Nest(dense, dense).sizes == (24, 1, 1, 1, 1, 1)
    transposed = Window(1, [4, 3, 2], [1, 4, 12], 0)
    @test Nest(transposed, transposed).sizes[1] == 24
end

@testset "a broadcast operand costs one level" begin
    row = Nest(Window(1, [5, 7], [7, 1], 0), Window(2, [5, 7], [0, 1], 0))
    @test levels(row) == 2 && row.sizes[1] == 7
    scalar = Nest(Window(1, [5, 7], [7, 1], 0), Window(2, [5, 7], [0, 0], 0))
    @test levels(scalar) == 1
end

@testset "dimensions of one element cost nothing, empty ones everything" begin
    @test levels(Nest(Window(1, [1, 5, 1], [99, 1, 98], 0))) == 1
    @test isempty(visits(Nest(Window(1, [3, 0, 2], [0, 2, 1], 0))))
    @test visits(Nest(Window(1, Int[], Int[], 3))) == [(0,)]
end

@testset "seven separate dimensions are refused" begin
    shape = fill(2, 7)
    gaps = [3^(7 - d) for d in 1:7]
    @test_throws ArgumentError Nest(Window(1, shape, gaps, 0))
end

@testset "a run is what lies together in order" begin
    @test is_run(Window(1, [2, 3], [3, 1], 4)) && is_run(Window(1, Int[], Int[], 0))
    @test is_run(Window(1, [1, 3], [77, 1], 0))
    @test !is_run(Window(1, [2, 3], [1, 2], 0)) && !is_run(Window(1, [2, 3], [4, 1], 0))
    @test !is_run(Window(1, [2], [0], 0))
end
